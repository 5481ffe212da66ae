"""``grape propose``: stages for a task from a vision-language model, or from the shipped library."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grape_training.cli_common import JsonOption, print_json, split_tasks
from grape_training.cli_vlm import (
    DEFAULT_FOLDER,
    DEFAULT_TIMEOUT,
    DeviceOption,
    FolderOption,
    LocalOption,
    ModelOption,
    RequestsOption,
    TimeoutOption,
    TokensOption,
    UrlOption,
    open_client,
)
from grape_training.errors import BadInputError

if TYPE_CHECKING:
    from grape_episodes.types import Episode
    from grape_preference.proposers import Proposer
    from grape_preference.segmentation import Candidate
    from grape_preference.vlm_client import VlmClient
    from grape_preference.vlm_query import StageProposal


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    app.command()(propose)


def propose(
    episode: Annotated[Path, typer.Argument(help="Folder of a recorded episode; its first frame is shown.")],
    url: UrlOption = "",
    model: ModelOption = "",
    local: LocalOption = None,
    device: DeviceOption = "cpu",
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
    folder: FolderOption = DEFAULT_FOLDER,
    max_requests: RequestsOption = 20,
    max_tokens: TokensOption = 200_000,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    json: JsonOption = False,
) -> None:
    """Propose the stages of an episode's task and write them as a stage file for grape score --stages."""
    from grape_episodes.reader import read_episode
    from grape_preference.vlm import Budget
    from grape_preference.vlm_query import propose_or_ship, shipped_proposal, write_stages

    recording, client = read_episode(episode), None
    if shipped and (url or local):
        raise BadInputError("--shipped asks no model", "Leave it out, or leave out the model")
    if shipped:
        proposal = shipped_proposal(recording.manifest.task)
    else:
        budget = Budget(max_requests, max_tokens)
        client = open_client(url, model, local, device, timeout, folder, budget)
        finder = _proposer(proposer, client, sam2, dinov2, device)
        find = partial(_first_objects, recording, finder, split_tasks(names))
        proposal = propose_or_ship(client, recording, find, fallback=fallback)
    path = output or Path("runs/stages") / f"{recording.manifest.task}.yaml"
    name = client.model.name if client else ""
    write_stages(proposal, path, recording.manifest.instruction, name)
    _report(proposal, path, client, json)


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
        "named_by_model": [item.name for item in proposal.plan.appearances],
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
    if client:
        typer.echo(
            f"{client.budget.requests} requests, {client.budget.tokens} tokens; audit: {summary['audit']}"
        )
