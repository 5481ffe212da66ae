"""What a study of preference optimisation consists of, as data: rollouts, data sets, arms, suites, claims.

``headline.yaml`` is the study behind docs/results, ``headline_quick.yaml`` its smallest form.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from grape_training.cells import IN_DOMAIN
from grape_training.errors import BadInputError
from grape_training.suites import load_suite
from grape_training.tpo_options import TpoOptions

SHIPPED = {"full": "headline.yaml", "quick": "headline_quick.yaml"}
Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]  # they become names of files
Names = Annotated[tuple[str, ...], Field(min_length=1)]


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

    The judge sees perceived keypoints only: a study that reads the simulator's verdict proves nothing.
    """

    collections: Names
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

    ``incumbent``: the arm whose policy (of the same seed where it has that, else of its first) stays unless
    the gate finds the new one better: what a robot would run after this iteration, not what was trained.
    """

    title: str
    data: str = ""
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
        self._check_names()
        self._check_claims()
        self._check_failed_in()
        for name in self.arms:
            self._check_needs(name, ())
        self._check_states()
        self._check_data()
        return self

    def _check_names(self) -> None:
        for name, data in self.data.items():
            _known(f"data.{name}.collections", data.collections, self.collections)
        for name, each in self.collections.items():
            _known(f"collections.{name}.policy", [each.policy], self.arms)
            _known(f"collections.{name}.failed_in", [each.failed_in] if each.failed_in else [], self.data)
        for name, arm in self.arms.items():
            _known(f"arms.{name}.incumbent", [arm.incumbent] if arm.incumbent else [], self.arms)
            if arm.incumbent and self.gate is None:
                raise ValueError(f"arms.{name}: an incumbent needs a gate; say from which states")
            _known(f"arms.{name}.data", [arm.data] if arm.data else [], self.data)
        names = [suite_name(each.title) for each in self.evaluation.suites]
        if len(set(names)) < len(names):
            raise ValueError("evaluation.suites: a suite is there twice; give one of them another name")
        for evaluated in self.evaluation.suites:
            _known(f"evaluation.suites.{evaluated.title}.arms", evaluated.arms, self.arms)

    def _check_claims(self) -> None:
        """Every claim needs its arm and the reference on its suites."""
        claims, cells = self.claims, {(suite, arm) for suite, arm, _ in self.cells}
        wanted = [
            (suite, arm) for suite in claims.in_domain for arm in (*claims.baselines, *claims.iterations)
        ]
        wanted += [(suite, claims.candidate) for suite in (*claims.in_domain, *claims.unseen)]
        wanted += [(s, c.arm) for c in (claims.collisions, claims.steps) if c is not None for s in c.suites]
        for suite, arm in wanted:
            if not {(suite, arm), (suite, claims.reference)} <= cells:
                raise ValueError(
                    f"claims: {arm} and {claims.reference} are not both evaluated on {suite}; "
                    "add them to evaluation.suites"
                )

    def _check_needs(self, name: str, seen: tuple[str, ...]) -> None:
        """Refuse an arm that needs itself, by its incumbent or by who collected its data."""
        if name in seen:
            raise ValueError(f"arms: {' needs '.join((*seen, name))}; an arm cannot need itself")
        arm = self.arms[name]
        if not arm.data and (arm.incumbent or len(arm.seeds) > 1 or arm.tpo != TpoOptions()):
            raise ValueError(f"arms.{name}: nothing is trained without data; give its data, or only a title")
        collected = self.data[arm.data].collections if arm.data else ()
        for other in {arm.incumbent, *(self.collections[each].policy for each in collected)} - {""}:
            self._check_needs(other, (*seen, name))

    def _check_states(self) -> None:
        """Refuse initial states that are used twice: to collect from, for the gate, to evaluate on."""
        gate = set(self.gate.state_ids()) if self.gate else set()
        evaluated = {
            state for each in self.evaluation.suites for state in self.evaluation.state_ids(each.title)
        }
        _apart("gate", gate, evaluated, "are evaluated")
        for name, collection in self.collections.items():
            states = set(collection.state_ids())
            _apart(f"collections.{name}", states, evaluated, "are evaluated")
            _apart(f"collections.{name}", states, gate, "are the gate's")

    def _check_data(self) -> None:
        """Refuse to train on data in which no initial state has two rollouts: there is nothing to compare."""
        for name in sorted({arm.data for arm in self.arms.values() if arm.data}):
            rollouts: Counter[str] = Counter()
            for collection in (self.collections[each] for each in self.data[name].collections):
                rollouts.update(dict.fromkeys(collection.state_ids(), collection.rollouts))
            if max(rollouts.values()) < 2:
                raise ValueError(f"data.{name}: no initial state has two rollouts to compare; collect more")

    def _check_failed_in(self) -> None:
        """Refuse a collection that waits for the failures of one that waits itself: it may be the same."""
        for name, collection in self.collections.items():
            needed = self.data[collection.failed_in].collections if collection.failed_in else ()
            waiting = [each for each in needed if self.collections[each].failed_in]
            if waiting:
                raise ValueError(
                    f"collections.{name}: {collection.failed_in} has {waiting[0]}, which waits for failures "
                    "too; name a data set of collections that do not"
                )


def suite_name(suite: str) -> str:
    """Return what a suite, by name or file, is called in names of stages and files."""
    return Path(suite).stem


def _apart(where: str, states: set[str], others: set[str], what: str) -> None:
    shared = sorted(states & others)
    if shared:
        raise ValueError(
            f"{where}: {len(shared)} initial states {what} too, the first is {shared[0]}; take another split "
            "or other numbers"
        )


def _known(where: str, names: Any, known: Any) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{where}: unknown name {', '.join(unknown)}; there are {', '.join(known)}")


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
