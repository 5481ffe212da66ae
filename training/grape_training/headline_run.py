"""Run the stages of a study: what is done with the same inputs is kept, the rest is done in order."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from grape_training.files import hash_json, read_json, write_json
from grape_training.headline_clock import Clock, machine
from grape_training.headline_stages import COLLECT, EVALUATE, GATE, SCORE, TRAIN, Stage, list_stages
from grape_training.headline_work import Results, Work
from grape_training.pool import run_parallel

DONE, OPEN, WAITING = "done", "open", "waiting"
# Seconds a rollout, scored episode, loss term of one pass, paired or evaluated episode takes until measured:
# an unhurried guess for two cores.
GUESSES = {COLLECT: 1.0, SCORE: 0.1, TRAIN: 1.5, GATE: 1.6, EVALUATE: 0.8}


@dataclass(frozen=True)
class Progress:
    """Where a stage stands: ``done``; ``open``, it can run; or ``waiting`` for others. Expected seconds."""

    stage: Stage
    state: str
    seconds: float


class StudyRun:
    """A study's stages and their results in ``<folder>/stages``, one JSON file each."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.stages = list_stages(work.study)
        self.results: dict[str, dict[str, Any]] = {}
        for stage in self.stages:
            self._recall(stage)

    def run(self, only: str = "*", say: Callable[[str], None] | None = None) -> None:
        """Do the stages whose id matches ``only``, and those that they need, if they are not done.

        Raises:
            UserError: a stage failed; what was done before is kept.
        """
        say = say or _say
        wanted = self.wanted(only)
        while (stage := next((s for s in wanted if not self._recall(s)), None)) is not None:
            batch = self._side_by_side(stage, wanted)
            for number, each in enumerate(wanted, 1):
                if each in batch:
                    say(f"[{number}/{len(wanted)}] {each.id}")
            for each, saved in self._execute(batch):
                say(f"{each.id}: {saved['cost']['wall']:.0f} s")

    def wanted(self, only: str = "*") -> list[Stage]:
        """Return the stages that match ``only`` with those they need, in order."""
        by_id = {stage.id: stage for stage in self.stages}
        names = {stage.id for stage in self.stages if fnmatch.fnmatch(stage.id, only)}
        for stage in reversed(self.stages):  # what is needed stands before
            if stage.id in names:
                names.update(stage.needs)
        return [stage for name, stage in by_id.items() if name in names]

    def progress(self, only: str = "*") -> list[Progress]:
        """Return state and expected remaining time of every wanted stage."""
        return [self._progress(stage) for stage in self.wanted(only)]

    def saved(self, stage: Stage) -> dict[str, Any]:
        """Return what was kept of a stage: inputs, result, cost, units, machine; empty if nothing was."""
        path = self._path(stage)
        found: dict[str, Any] = read_json(path, "Delete it to do the stage again") if path.exists() else {}
        return found

    def _recall(self, stage: Stage) -> bool:
        """Return whether the stage is done with its present inputs; its result is then in ``results``."""
        if stage.id in self.results:
            return True
        saved = self.saved(stage)
        ready = saved and all(need in self.results for need in stage.needs)
        if not ready or saved["inputs"] != hash_json(self.work.inputs(stage, self.results)):
            return False
        if not self.work.intact(stage, saved["result"]):
            return False
        self.results[stage.id] = saved["result"]
        return True

    def _side_by_side(self, stage: Stage, wanted: Sequence[Stage]) -> list[Stage]:
        """Return ``stage``, with further trainings that can run now: each of them uses one core."""
        if stage.kind != TRAIN:
            return [stage]
        ready = [
            each
            for each in wanted
            if each.kind == TRAIN and not self._recall(each) and all(n in self.results for n in each.needs)
        ]
        return ready[: self.work.workers]

    def _execute(self, batch: Sequence[Stage]) -> Iterator[tuple[Stage, dict[str, Any]]]:
        if len(batch) == 1:
            saved = execute(batch[0], self.work, self.results)
            self.results[batch[0].id] = saved["result"]
            yield batch[0], saved
            return
        function = partial(execute, work=replace(self.work, progress=False), results=self.results)
        with closing(run_parallel(function, batch, len(batch))) as finished:
            for stage, saved in finished:
                self.results[stage.id] = saved["result"]
                yield stage, saved

    def _path(self, stage: Stage) -> Path:
        return _stage_file(self.work, stage)

    def _progress(self, stage: Stage) -> Progress:
        if self._recall(stage):
            return Progress(stage, DONE, 0.0)
        ready = all(need in self.results for need in stage.needs)
        return Progress(stage, OPEN if ready else WAITING, self._units(stage) * self._rate(stage.kind))

    def _units(self, stage: Stage) -> float:
        """Return how many rollouts, episodes or loss terms a stage is about, as far as that is known."""
        study = self.work.study
        if stage.kind == EVALUATE:
            return len(study.evaluation.state_ids(stage.suite))
        if stage.kind == GATE and study.gate:
            return len(study.gate.state_ids())
        if stage.kind == TRAIN:
            arm = study.arms[stage.name]
            return arm.tpo.epochs * sum(self._pairs(data) for data in arm.data)
        return self._rollouts(stage.name) if stage.kind == SCORE else self._collected(stage.name)

    def _pairs(self, data: str) -> float:
        """Return how many pairs a data set has; half as many as rollouts while that is not known."""
        known = self.results.get(f"{SCORE}/{data}", {}).get("pairs")
        return known if known is not None else self._rollouts(data) / 2

    def _rollouts(self, data: str) -> int:
        about = self.work.study.data[data]
        return sum(self._collected(name, about.states) for name in about.collections)

    def _collected(self, name: str, states: int | None = None) -> int:
        collection = self.work.study.collections[name]
        share = min(1.0, states / collection.states) if states else 1.0
        return round(len(collection.state_ids()) * share) * collection.rollouts

    def _rate(self, kind: str) -> float:
        """Return the seconds a unit took in the stages of this kind that are done."""
        done = [stage for stage in self.stages if stage.kind == kind and stage.id in self.results]
        units = sum(self._units(stage) for stage in done)
        return sum(self.saved(stage)["cost"]["wall"] for stage in done) / units if units else GUESSES[kind]


def execute(stage: Stage, work: Work, results: Results) -> dict[str, Any]:
    """Do one stage; write and return its result with its cost. Trainings run it in other processes."""
    inputs = hash_json(work.inputs(stage, results))
    clock_path = work.folder / "clocks" / f"{stage.id}-{inputs[:8]}.json"
    with Clock(clock_path) as clock:
        result = work.run(stage, results)
    saved = {
        "stage": stage.id,
        "inputs": inputs,
        "result": result,
        "cost": asdict(clock.cost),
        "workers": 1 if stage.kind == TRAIN else work.workers,
        "machine": machine(),
    }
    write_json(_stage_file(work, stage), saved)
    return saved


def _stage_file(work: Work, stage: Stage) -> Path:
    return work.folder / "stages" / f"{stage.id}.json"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
