"""``grape loop``: collect, score, train, evaluate, gate, reload and report, resumable stage by stage."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from grape_training.errors import BadInputError
from grape_training.evaluation import CellResult, compare, evaluate, initial_states, summarise
from grape_training.files import hash_json, write_json
from grape_training.gate import DEMO, GateOptions, decide
from grape_training.loop_graph import LoopGraph, loop_graph
from grape_training.policies import PolicySpec
from grape_training.registry import Registry
from grape_training.stages import Stages, keep_if_same_inputs
from grape_training.tpo_options import TpoOptions

PROOF_STATE = 9000  # index of the evaluation state that the reloaded policy is run from


@dataclass(frozen=True)
class LoopOptions:
    """Sizes and folders of one loop; the defaults are those of the demo, its trainer that of the study.

    The policy first runs greedily, as it is used, from ``tries`` initial states per task. From ``states`` of
    them, those first in which the judge saw it fail, it runs ``rollouts`` times sampled: pairs of a success
    with the greedy failure are what there is to learn, and chance shall not decide how many there are.
    """

    output: Path
    checkpoint: Path
    tasks: tuple[str, ...] = ("carrot_on_plate", "eggplant_in_basket", "stack_cube", "spoon_on_towel")
    tries: int = 6
    states: int = 3
    rollouts: int = 3
    temperature: float = 0.7
    preset: str = "0,1,1"
    top: int = 2
    reject_greedy: bool = True
    eval_states: int = 20
    max_steps: int = 50
    seed: int = 0
    workers: int = 2
    ros: bool = True
    tpo: TpoOptions = field(default_factory=partial(TpoOptions, epochs=2))  # so few pairs make few steps
    gate: GateOptions = DEMO


def run_loop(options: LoopOptions, *, quiet: bool = False) -> dict[str, Any]:
    """Run the whole loop once and return the summary, which is also in ``<output>/summary.json``.

    Raises:
        UserError: something the user can mend; the stages that are complete are kept.
    """
    from grape_training.loop_summary import make_summary, print_summary

    if options.states > options.tries:
        raise BadInputError(
            f"{options.states} of {options.tries} initial states per task cannot be sampled from",
            "Give as many tries as states, or more",
        )
    say = _silent if quiet else _say
    _check_machine(options, say)
    stages = Stages(options.output / "stages", say)
    registry = Registry(options.output / "registry")
    incumbent = _incumbent(registry, options)
    with loop_graph(registry.folder(incumbent), options.output) if options.ros else nullcontext() as graph:
        results = _improve(options, stages, registry, incumbent, graph, quiet)
    summary = make_summary(options.output, incumbent, results, stages.seconds)
    write_json(options.output / "summary.json", summary)
    summary["report"] = _report(options.output, say)
    write_json(options.output / "summary.json", summary)
    if not quiet:
        print_summary(summary)
    return summary


def _improve(
    options: LoopOptions,
    stages: Stages,
    registry: Registry,
    incumbent: str,
    graph: LoopGraph | None,
    quiet: bool,
) -> dict[str, dict[str, Any]]:
    """Run the stages; each one's inputs name everything its result depends on."""
    loop = _Loop(options, registry, incumbent, graph, quiet)
    data = {
        name: getattr(options, name)
        for name in ("tasks", "tries", "states", "rollouts", "temperature", "seed", "ros")
    }
    inputs: dict[str, Any] = {"incumbent": incumbent, "max_steps": options.max_steps, **data}
    results = {"try": stages.run("try", inputs, loop.try_out)}
    chosen = results["try"]["chosen"]
    results["collect"] = stages.run("collect", inputs, lambda: loop.collect(chosen))
    with loop.graph_suspended():
        inputs |= {name: getattr(options, name) for name in ("preset", "top", "reject_greedy")}
        results["score"] = stages.run("score", inputs, loop.score)
        inputs = {**inputs, "tpo": asdict(options.tpo), "pairs": results["score"]["pairs"]}
        results["train"] = stages.run("train", inputs, loop.train)
        candidate = results["train"]["candidate"]
        inputs = {**inputs, "candidate": candidate, "eval_states": options.eval_states}
        results["evaluate"] = stages.run("evaluate", inputs, lambda: loop.evaluate(candidate))
        inputs = {**inputs, "gate": asdict(options.gate)}
        results["gate"] = stages.run("gate", inputs, lambda: loop.judge(candidate))
    if graph is not None and results["gate"]["promote"]:
        results["reload"] = stages.run("reload", inputs, lambda: loop.reload(graph, candidate))
    return results


class _Loop:
    """The stages' work."""

    def __init__(
        self, options: LoopOptions, registry: Registry, incumbent: str, graph: LoopGraph | None, quiet: bool
    ) -> None:
        self.options, self.registry, self.incumbent = options, registry, incumbent
        self.graph, self.progress = graph, not quiet
        self.episodes = options.output / "episodes"
        self.source = registry.folder(incumbent)

    def graph_suspended(self) -> AbstractContextManager[None]:
        """Leave the processor to the block."""
        return self.graph.suspended() if self.graph is not None else nullcontext()

    def try_out(self) -> dict[str, Any]:
        """Run greedily from every initial state; ``chosen``: those to sample from, failures first."""
        o = self.options
        found = self._collect(initial_states(o.tasks, "collect", o.tries), 1, 0.0)
        with self.graph_suspended():
            failed = self._failed()
        chosen = []
        for task in o.tasks:
            states = initial_states([task], "collect", o.tries)
            chosen += sorted(states, key=lambda state: state not in failed)[: o.states]
        return {**found, "failed": sum(state in failed for state in chosen), "chosen": chosen}

    def collect(self, states: Sequence[str]) -> dict[str, int]:
        """Run sampled from ``states``."""
        return self._collect(states, self.options.rollouts, self.options.temperature)

    def _collect(self, states: Sequence[str], rollouts: int, temperature: float) -> dict[str, int]:
        from grape_training.collect import RolloutPlan, collect_in_simulation

        o = self.options
        wanted = RolloutPlan(tuple(states), rollouts, temperature, o.seed, o.max_steps)
        if self.graph is not None:
            outcome = self.graph.collect(wanted, self.progress)
            return {"episodes": outcome.episodes, "successes": outcome.successes}
        found = collect_in_simulation(
            str(self.source), wanted, self.episodes, workers=o.workers, progress=self.progress
        )
        return {"episodes": found.episodes, "successes": found.successes}

    def _failed(self) -> set[str]:
        """Return the initial states in which a greedy rollout failed, by the judge."""
        from grape_preference.folder import score_folder

        o = self.options
        scores = score_folder(self.episodes, o.output / "tried", o.workers, progress=self.progress).scores
        return {
            score.initial_state_id for score in scores if score.temperature == 0.0 and score.i_success == 0.0
        }

    def score(self) -> dict[str, Any]:
        from grape_preference.folder import score_folder

        o = self.options
        result = score_folder(
            self.episodes,
            o.output,
            o.workers,
            preset=o.preset,
            top=o.top,
            reject_greedy=o.reject_greedy,
            balance=False,
            progress=self.progress,
        )
        return {"scored": result.scored, "pairs": len(result.pairs)}

    def train(self) -> dict[str, Any]:
        from grape_training.pipeline import load_base, register_candidate, run_tpo

        output, pairs = self.options.output / "tpo", self.options.output / "pairs.parquet"
        inputs = [asdict(self.options.tpo), self.incumbent, hashlib.sha256(pairs.read_bytes()).hexdigest()]
        keep_if_same_inputs(output, hash_json(inputs))
        result = run_tpo(self.source, pairs, self.episodes, output, self.options.tpo, progress=self.progress)
        base = load_base(self.source, output)[1]
        candidate = register_candidate(
            self.registry, "tpo", result, base, self.options.tpo, {"pairs": str(pairs)}
        )
        return {"candidate": candidate, **{k: v for k, v in asdict(result).items() if k != "adapter"}}

    def evaluate(self, candidate: str) -> dict[str, Any]:
        cells = self._cells(candidate)
        return {
            "before": summarise(cells["before"]),
            "after": summarise(cells["after"]),
            "difference": compare(cells["after"], cells["before"]),
        }

    def judge(self, candidate: str) -> dict[str, Any]:
        cells = self._cells(candidate)
        decision = decide(candidate, self.incumbent, cells["after"], cells["before"], self.options.gate)
        if decision.promote and self.registry.current != candidate:
            self.registry.promote(candidate, decision)
        write_json(self.options.output / "gate.json", decision.to_dict())
        return decision.to_dict()

    def _cells(self, candidate: str) -> dict[str, list[CellResult]]:
        o = self.options
        specs = {
            "before": PolicySpec(str(self.source)),
            "after": PolicySpec(str(self.registry.folder(candidate))),
        }
        states = initial_states(o.tasks, "eval", o.eval_states)
        return evaluate(
            specs,
            states,
            o.output / "evaluation",
            workers=o.workers,
            max_steps=o.max_steps,
            progress=self.progress,
        )

    def reload(self, graph: LoopGraph, candidate: str) -> dict[str, Any]:
        version = graph.load_policy(self.registry.folder(candidate))
        episode = graph.run_episode(
            f"{self.options.tasks[0]}/eval/{PROOF_STATE}", max_steps=self.options.max_steps
        )
        return {
            "version": version,
            "proof": asdict(episode),
            "recorded_version": recorded_version(episode.path),
        }


def recorded_version(episode: str) -> str:
    """Return the policy version that an episode's manifest names; empty without a recording."""
    from grape_episodes.manifest import read_manifest

    return read_manifest(Path(episode)).policy_version if episode else ""


def _incumbent(registry: Registry, options: LoopOptions) -> str:
    """Return the version to improve: always the given checkpoint, so that a resumed run does the same.

    Raises:
        BadInputError: the folder holds the loop of another checkpoint, whose rollouts would be paired too.
    """
    version = registry.add(options.checkpoint, "base")
    if registry.current is None:
        registry.start(version)
    begun_with = registry.pointer().history[0]["version"]
    if begun_with != version:
        what = f"{options.output} holds the loop of {begun_with}, {options.checkpoint} is {version}"
        raise BadInputError(what, "Give another --output")
    return version


def _check_machine(options: LoopOptions, say: Any) -> None:
    """Run the doctor's quick checks.

    Raises:
        UserError: the first one that fails, with its remedy.
    """
    from grape_training.preflight import check_machine

    say("doctor ...")
    check_machine(options.checkpoint, options.output, ros=options.ros)


def _report(output: Path, say: Any) -> str:
    from grape_training.report import write_report

    say("report ...")
    return str(write_report(output))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    """Say nothing: a program reads the output."""
