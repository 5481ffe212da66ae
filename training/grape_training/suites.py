"""Where an evaluation's initial states come from: a suite of our simulator, or one of LIBERO's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from grape_training import libero


class StartedState(Protocol):
    """What a policy (or a check) is told about an initial state."""

    @property
    def instruction(self) -> str:
        """What the policy is told."""
        ...

    @property
    def other_instruction(self) -> str:
        """What a policy is told instead to see whether it listens."""
        ...


class EvaluationSuite(Protocol):
    """The part of a suite that an evaluation uses; see :class:`grape_sim.suite.Suite`."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def source(self) -> str:
        """What another process loads it by."""
        ...

    @property
    def content_hash(self) -> str:
        """The identity of what it says."""
        ...

    @property
    def description(self) -> str:
        """A sentence about it."""
        ...

    @property
    def max_steps(self) -> int:
        """The longest episode unless told otherwise."""
        ...

    @property
    def cells(self) -> Mapping[str, Any]:
        """The cells by name."""
        ...

    def state_ids(
        self, split: str, per_cell: int, first: int = 0, cells: Sequence[str] | None = None
    ) -> list[str]:
        """Return the names of the initial states ``first`` .. of each cell, index by index."""
        ...

    def sample(self, initial_state_id: str) -> StartedState:
        """Return the initial state of that name."""
        ...


def load_suite(name_or_file: str) -> EvaluationSuite:
    """Return a shipped suite, one from a YAML file, or LIBERO's ``libero_spatial`` and so on.

    Raises:
        ValueError: no such suite, or its file is wrong: file, place, what to do.
        BadInputError: a LIBERO suite, and LIBERO is not installed here.
    """
    if is_libero(name_or_file):
        return libero.libero_suite(name_or_file)
    from grape_sim import suite

    return suite.load_suite(name_or_file)


def open_environment(name_or_file: str) -> Any:
    """Return a new environment for the initial states of a suite; close it when done."""
    if is_libero(name_or_file):
        return libero.LiberoEnvironment(name_or_file)
    from grape_sim.environment import SimEnvironment

    return SimEnvironment(suite=name_or_file)


def has_expert(name_or_file: str) -> bool:
    """Return whether a scripted expert can solve the tasks of a suite; LIBERO has none."""
    return not is_libero(name_or_file)


def is_libero(name_or_file: str) -> bool:
    """Return whether this is the name of one of LIBERO's suites; a file of that name goes first."""
    return name_or_file in libero.MAX_STEPS and not Path(name_or_file).is_file()
