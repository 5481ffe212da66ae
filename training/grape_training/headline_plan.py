"""What a study of preference optimisation consists of, as data: rollouts, data sets, arms, suites, claims.

``headline.yaml`` is the study behind docs/results, ``headline_quick.yaml`` its smallest form.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from grape_training.cells import IN_DOMAIN
from grape_training.errors import BadInputError
from grape_training.headline_checks import check_study
from grape_training.suites import load_suite
from grape_training.tpo_options import TpoOptions

SHIPPED = {"full": "headline.yaml", "quick": "headline_quick.yaml"}
Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]  # they become names of files
Names = Annotated[tuple[str, ...], Field(min_length=1)]


def _listed(names: object) -> object:
    """Let one name stand for a list of one."""
    return (names,) if isinstance(names, str) else names


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Collection(_Part):
    """Rollouts of an arm's first seed: ``rollouts`` from each of ``states`` states per cell.

    ``temperature`` 0 is greedy: one such rollout per state shows how the deployed policy fails there. A data
    set joins it with sampled ones of the same states. ``failed_in``: a data set; only those of the states are
    run in which it has a rollout that the judge found to have failed. ``lift``: see ``exploration``.
    """

    policy: str
    suite: str = IN_DOMAIN
    cells: tuple[str, ...] = ()  # none: all
    split: str = "collect"
    first_state: Natural = 0
    states: Positive
    rollouts: Positive = 5
    temperature: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    seed: Natural = 0
    failed_in: str = ""
    lift: Natural = 0

    def state_ids(self) -> list[str]:
        """Return the initial states, index by index; with ``failed_in``, those that may be run."""
        suite = load_suite(self.suite)
        return suite.state_ids(self.split, self.states, self.first_state, list(self.cells) or None)


class DataSet(_Part):
    """Scored and paired rollouts of one or more collections; see ``grape score``.

    ``states``: only the rollouts from so many initial states per cell, the first ones; none: from all.

    The judge sees perceived keypoints only: a study that reads the simulator's verdict proves nothing.
    """

    collections: Names
    states: Positive | None = None
    objective: str = "task"
    preset: str = "balanced"
    judge: Literal["keypoints"] = "keypoints"
    top: Positive = 1
    margin: Annotated[float, Field(ge=0.0)] = 0.0
    reject_greedy: bool = False
    among_successes: bool = False
    balance: bool = True


class Arm(_Part):
    """A way of training, from the checkpoint; without ``data`` the checkpoint itself. Each seed is one run.

    ``data``: a data set, or several, whose pairs are joined: one keeps what another one is not about.

    ``incumbent``: the arm whose policy (of the same seed where it has that, else of its first) stays unless
    the gate finds the new one better: what a robot would run after this iteration, not what was trained.
    """

    title: str
    data: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    incumbent: str = ""
    seeds: Annotated[tuple[Natural, ...], Field(min_length=1)] = (0,)
    tpo: TpoOptions = TpoOptions()

    def options(self, seed: int) -> TpoOptions:
        """Return the trainer's options for one seed."""
        return replace(self.tpo, seed=seed)


class SuiteEvaluation(_Part):
    """One suite: ``states`` initial states per cell for ``arms`` (none: all), all seeds or the first.

    ``name`` and ``temperature`` tell apart evaluations of one suite with other decodings.
    """

    suite: str
    states: Positive
    arms: tuple[str, ...] = ()
    seeds: Literal["all", "first"] = "all"
    name: str = ""
    temperature: Annotated[float | None, Field(ge=0.0, allow_inf_nan=False)] = None

    @property
    def title(self) -> str:
        """What results and claims call it: its name, else the suite."""
        return self.name or self.suite


class EvaluationPlan(_Part):
    """Paired evaluation from unseen initial states; ``suites`` in the order in which they are run."""

    split: str = "eval"
    first_state: Natural = 0
    temperature: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    seed: Natural = 0
    suites: Annotated[tuple[SuiteEvaluation, ...], Field(min_length=1)]

    def of(self, title: str) -> SuiteEvaluation:
        """Return the evaluation that is called ``title``."""
        return next(each for each in self.suites if each.title == title)

    def temperature_of(self, title: str) -> float:
        """Return the sampling temperature of an evaluation; 0 is greedy."""
        own = self.of(title).temperature
        return self.temperature if own is None else own

    def state_ids(self, title: str) -> list[str]:
        """Return the initial states of an evaluation, index by index."""
        each = self.of(title)
        return load_suite(each.suite).state_ids(self.split, each.states, self.first_state)


class GateStates(_Part):
    """Initial states from which a new policy meets its incumbent, greedily; none else may use them."""

    suite: str = IN_DOMAIN
    split: str = "collect"
    first_state: Natural
    states: Positive

    def state_ids(self) -> list[str]:
        """Return the initial states, index by index."""
        return load_suite(self.suite).state_ids(self.split, self.states, self.first_state)


class Claim(_Part):
    """Where a change is looked for: an arm against the reference on suites."""

    arm: str
    suites: Names


class Claims(_Part):
    """Which cells the headline figures are made of."""

    reference: str
    candidate: str
    baselines: Names
    in_domain: Names
    unseen: tuple[str, ...] = ()
    collisions: Claim | None = None
    steps: Claim | None = None
    iterations: tuple[str, ...] = ()


class Study(_Part):
    """A whole study; arms, data sets and collections refer to each other by name."""

    name: Name
    checkpoint: Path
    collections: dict[Name, Collection]
    data: dict[Name, DataSet]
    arms: dict[Name, Arm]
    gate: GateStates | None = None
    evaluation: EvaluationPlan
    claims: Claims

    @cached_property
    def cells(self) -> list[tuple[str, str, int]]:
        """All (suite, arm, seed) that are evaluated, in order."""
        return [
            (each.title, name, seed)
            for each in self.evaluation.suites
            for name in each.arms or self.arms
            for seed in (self.arms[name].seeds if each.seeds == "all" else self.arms[name].seeds[:1])
        ]

    def seed_of(self, arm: str, seed: int | None = None) -> int:
        """Return ``seed`` if ``arm`` has it, else its first."""
        seeds = self.arms[arm].seeds
        return seed if seed in seeds else seeds[0]

    @model_validator(mode="after")
    def _check(self) -> Study:
        check_study(self)
        return self


def shipped_study(name: str) -> Path:
    """Return the file of a shipped study: ``full`` or ``quick``."""
    return Path(__file__).with_name(SHIPPED[name])


def load_study(path: Path) -> Study:
    """Read and check a study.

    Raises:
        BadInputError: the file is missing, is not YAML, or asks for what cannot be.
    """
    try:
        return parse_study(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise BadInputError(
            f"{path} cannot be read ({error.strerror})", "Give a study's YAML file"
        ) from error


def parse_study(text: str, where: str) -> Study:
    """Check a study's YAML; ``where`` is what messages call it.

    Raises:
        BadInputError: it is not YAML, or asks for what cannot be.
    """
    try:
        return Study.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise BadInputError(f"{where} is not YAML ({error})", "Mend it") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors()]
        raise BadInputError(f"{where}: {'; '.join(problems)}", "Mend the study's file") from error
