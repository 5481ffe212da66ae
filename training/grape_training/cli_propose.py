"""``grape propose``: stages for a task from a vision-language model, or from the shipped library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grape_training.cli_common import JsonOption, print_json, split_tasks
from grape_training.errors import BadInputError

if TYPE_CHECKING:
    from grape_episodes.types import Episode
    from grape_preference.proposers import Proposer
    from grape_preference.segmentation import Candidate
    from grape_preference.vlm import VlmModel
    from grape_preference.vlm_client import VlmClient
    from grape_preference.vlm_query import StageProposal

_REMEDY = "Give one of: --url with --model (a server), --local (a checkpoint folder), --shipped (no model)"


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    app.command()(propose)


def propose(
    episode: Annotated[Path, typer.Argument(help="Folder of a recorded episode; its first frame is shown.")],
    url: Annotated[
        str, typer.Option(help="Chat server, e.g. http://localhost:11434/v1; its key: GRAPE_VLM_API_KEY.")
    ] = "",
    model: Annotated[str, typer.Option(help="The model's name at the server.")] = "",
    local: Annotated[
        Path | None, typer.Option(help="Checkpoint folder of an image-text-to-text model to run here.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device of models that run here: cpu, cuda, ...")] = "cpu",
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Take the shipped stages; ask no model.")
    ] = False,
    fallback: Annotated[
        bool, typer.Option(help="Take the shipped stages when the model gives no usable answer, and say so.")
    ] = True,
    proposer: Annotated[
        str,
        typer.Option(help="What finds the objects: colour, pointing (the model) or learned (SAM2 + DINOv2)."),
    ] = "colour",
    names: Annotated[
        str, typer.Option(help="Objects to look for, separated by commas; pointing needs them.")
    ] = "",
    sam2: Annotated[Path | None, typer.Option(help="SAM2 checkpoint folder (--proposer learned).")] = None,
    dinov2: Annotated[
        Path | None, typer.Option(help="DINOv2 checkpoint folder (--proposer learned).")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Stage file to write; default: runs/stages/<task>.yaml.")
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Folder of the audit (what was sent and answered) and of the cache.")
    ] = Path("runs/vlm"),
    max_requests: Annotated[int, typer.Option(min=1, help="Budget of requests, tries included.")] = 20,
    max_tokens: Annotated[int, typer.Option(min=1, help="Budget of tokens, prompts included.")] = 200_000,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one answer.")] = 300.0,
    json: JsonOption = False,
) -> None:
    """Propose the stages of an episode's task and write them as a stage file for grape score --stages."""
    from grape_episodes.reader import read_episode
    from grape_preference.vlm import Budget
    from grape_preference.vlm_client import VlmClient
    from grape_preference.vlm_query import (
        propose_or_ship,
        propose_stages,
        shipped_proposal,
        write_stages,
    )

    if (bool(url) + (local is not None) + shipped) != 1 or bool(url) != bool(model):
        raise BadInputError("it is not clear where the stages shall come from", _REMEDY)
    recording = read_episode(episode)
    if shipped:
        client, proposal = None, shipped_proposal(recording.manifest.task)
    else:
        budget = Budget(max_requests, max_tokens)
        client = VlmClient(_model(url, model, local, device, timeout), folder, budget)
        finder = _proposer(proposer, client, sam2, dinov2, device)
        ask = propose_or_ship if fallback else propose_stages
        proposal = ask(client, recording, _first_objects(recording, finder, split_tasks(names)))
    path = output or Path("runs/stages") / f"{recording.manifest.task}.yaml"
    name = client.model.name if client else ""
    write_stages(proposal, path, recording.manifest.instruction, name)
    _report(proposal, path, client, json)


def _model(url: str, name: str, local: Path | None, device: str, timeout: float) -> VlmModel:
    if local is not None:
        from grape_preference.vlm_local import LocalModel

        return LocalModel(local, device, timeout=timeout)
    from grape_preference.vlm_http import ChatServer
    from grape_preference.vlm_transport import HttpOptions

    return ChatServer(url, name, HttpOptions(timeout=timeout))


def _proposer(kind: str, client: VlmClient, sam2: Path | None, dinov2: Path | None, device: str) -> Proposer:
    from grape_preference.proposers import ColourProposer, PointingProposer

    if kind == "colour":
        return ColourProposer()
    if kind == "pointing":
        return PointingProposer(client)
    if kind != "learned":
        raise BadInputError(f"unknown proposer {kind!r}", "Choose colour, pointing or learned")
    if sam2 is None or dinov2 is None:
        raise BadInputError("the learned proposer needs two checkpoints", "Give --sam2 and --dinov2")
    from grape_preference.learned_proposer import LearnedProposer

    return LearnedProposer(sam2, dinov2, device)


def _first_objects(recording: Episode, finder: Proposer, names: list[str]) -> dict[str, Candidate]:
    if recording.depths is None:
        raise BadInputError("the episode has no depth images to find objects with", "Record it with depth")
    return finder.propose(recording.images[0], recording.depths[0], recording.camera, names)


def _report(proposal: StageProposal, path: Path, client: VlmClient | None, json: bool) -> None:
    summary = {
        "stages_file": str(path),
        "source": proposal.source,
        "verdict": proposal.verdict,
        "message": proposal.message,
        "stages": [stage.name for stage in proposal.plan.stages],
        "keypoints": list(proposal.plan.keypoints),
        "undeclared": sorted(proposal.appearances),
        "requests": client.budget.requests if client else 0,
        "tokens": client.budget.tokens if client else 0,
        "audit": str(client.root / "audit") if client else None,
    }
    if json:
        print_json(summary)
        return
    origin = "the model's" if proposal.source == "model" else "the SHIPPED"
    names = ", ".join(stage.name for stage in proposal.plan.stages)
    typer.echo(f"{path}: {origin} stages ({proposal.verdict}): {names}")
    if proposal.message:
        typer.echo(f"why: {proposal.message}")
    if proposal.appearances:
        typer.echo(f"declare in appearance.yaml, see the file's comments: {', '.join(proposal.appearances)}")
    if client:
        typer.echo(
            f"{client.budget.requests} requests, {client.budget.tokens} tokens; audit: {summary['audit']}"
        )
