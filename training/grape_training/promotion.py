"""Evaluate a registered candidate against the version in use, let the gate decide, switch if it may."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grape_training.errors import BadInputError, UserError
from grape_training.evaluation import CellResult, evaluate
from grape_training.files import write_json
from grape_training.gate import Decision, GateOptions, decide
from grape_training.policies import PolicySpec
from grape_training.registry import Registry, folder_kind


def register_folder(registry: Registry, folder: Path) -> str:
    """Put a checkpoint or adapter folder into ``registry`` and return its version.

    An adapter's base goes in first. In an empty registry the base (or the checkpoint itself) becomes current:
    there is nothing to compare it with.

    Raises:
        BadInputError: the folder holds neither, or the adapter's base is not there.
    """
    from grape_policy.vla.adapter import base_checkpoint
    from grape_policy.vla.errors import CheckpointError

    if folder_kind(folder) == "checkpoint":
        version = base = registry.add(folder, "base")
    else:
        try:
            base = registry.add(base_checkpoint(folder), "base")
        except CheckpointError as error:
            raise BadInputError(str(error), "Keep the base checkpoint where it was") from error
        version = registry.add(folder, "tpo", parents=(base,))
    if registry.current is None:
        registry.start(base)
    return version


def evaluate_against_current(
    registry: Registry,
    candidate: str,
    states: Sequence[str],
    output: Path,
    *,
    workers: int = 2,
    max_steps: int = 50,
    progress: bool = True,
) -> dict[str, list[CellResult]]:
    """Return the greedy results of ``before`` (the version in use) and ``after`` (the candidate).

    Raises:
        UserError: the registry has no version in use.
    """
    if registry.current is None:
        raise UserError(f"the registry {registry.root} has no version in use", "Promote a first one")
    specs = {
        "before": PolicySpec(str(registry.folder(registry.current))),
        "after": PolicySpec(str(registry.folder(candidate))),
    }
    return evaluate(specs, states, output, workers=workers, max_steps=max_steps, progress=progress)


def promote_if_better(
    registry: Registry,
    candidate: str,
    states: Sequence[str],
    output: Path,
    options: GateOptions,
    *,
    workers: int = 2,
    max_steps: int = 50,
) -> Decision:
    """Run the paired evaluation and the gate; promote if it may; ``gate.json`` keeps the decision."""
    cells = evaluate_against_current(
        registry, candidate, states, output, workers=workers, max_steps=max_steps
    )
    decision = decide(candidate, registry.current, cells["after"], cells["before"], options)
    write_json(output / "gate.json", decision.to_dict())
    if decision.promote:
        registry.promote(candidate, decision)
    return decision
