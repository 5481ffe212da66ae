"""What each stage of a study does, what its result depends on, and whether that result is still there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grape_training.evaluation import evaluate
from grape_training.files import hash_file, hash_folder, hash_json, hash_sources
from grape_training.gate import decide
from grape_training.headline_checks import suite_name
from grape_training.headline_data import join, link_episodes, rollouts_from, score_statistics
from grape_training.headline_plan import Collection, DataSet, GateStates, Study
from grape_training.headline_rows import row_of
from grape_training.headline_stages import COLLECT, GATE, SCORE, TRAIN, Stage, policy_need
from grape_training.policies import PolicySpec, load_vla
from grape_training.stages import keep_if_same_inputs
from grape_training.suites import load_suite

if TYPE_CHECKING:
    from grape_training.collect import RolloutPlan

Results = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Work:
    """The stages' work below ``folder``; plain data, so that it can be sent to other processes."""

    study: Study
    folder: Path
    workers: int = 2
    progress: bool = True

    def inputs(self, stage: Stage, results: Results) -> dict[str, Any]:
        """Return all that the result of ``stage`` depends on; those it needs must be in ``results``."""
        if stage.kind == COLLECT:
            return self._collect_inputs(stage, results)
        if stage.kind == SCORE:
            return self._score_inputs(stage, results)
        if stage.kind == TRAIN:
            return self._train_inputs(stage, results)
        if stage.kind == GATE:
            return self._gate_inputs(stage, results)
        return self._evaluate_inputs(stage, results)

    def run(self, stage: Stage, results: Results) -> dict[str, Any]:
        """Do the work, or what is left of it, and return its result."""
        if stage.kind == COLLECT:
            return self._collect(stage, results)
        if stage.kind == SCORE:
            return self._score(stage, results)
        if stage.kind == TRAIN:
            return self._train(stage, results)
        if stage.kind == GATE:
            return self._gate(stage, results)
        return self._evaluate(stage, results)

    def intact(self, stage: Stage, result: dict[str, Any]) -> bool:
        """Return whether the files that later stages read are still those that ``result`` is about."""
        if stage.kind == COLLECT:
            root = self._collection_folder(stage.name)
            return all((root / name).is_dir() for name in result["episode_ids"])
        files = {self._data_folder(stage.name) / name: sha for name, sha in result.get("files", {}).items()}
        if stage.kind == TRAIN:
            adapter = self._run_folder(stage) / "adapter"
            return adapter.is_dir() and hash_folder(adapter) == result["adapter"]
        return all(path.is_file() and hash_file(path) == sha for path, sha in files.items())

    def policy(self, arm: str, results: Results, seed: int | None = None) -> tuple[str, str]:
        """Return folder and version of the policy of ``arm``: where a gate refused it, its incumbent's."""
        need = policy_need(self.study, arm, seed)
        if not need:
            source = str(self.study.checkpoint)
            return source, load_vla(source).version
        (kind, name), result = need[0].split("/"), results[need[0]]
        if kind == GATE and not result["promote"]:
            return self.policy(self.study.arms[arm].incumbent, results, self.study.seed_of(arm, seed))
        return str(self.folder / TRAIN / name / "adapter"), result["version"]

    def _collect_inputs(self, stage: Stage, results: Results) -> dict[str, Any]:
        collection = self.study.collections[stage.name]
        suite, (_, version) = load_suite(collection.suite), self.policy(collection.policy, results)
        # An option added later is an input only where it is used: what was collected before stays valid.
        unused = set() if collection.lift else {"lift"}
        about = collection.model_dump(exclude={"policy", "failed_in", *unused})
        if collection.failed_in:
            about["failures"] = results[f"{SCORE}/{collection.failed_in}"]["files"]
        return {"policy": version, "suite": suite.content_hash, "max_steps": suite.max_steps, **about}

    def _collect(self, stage: Stage, results: Results) -> dict[str, Any]:
        from grape_training.collect import collect_in_simulation, completed

        collection, root = self.study.collections[stage.name], self._collection_folder(stage.name)
        source, version = self.policy(collection.policy, results)
        wanted = self._rollout_plan(collection)
        found = collect_in_simulation(source, wanted, root, workers=self.workers, progress=self.progress)
        entries = completed(root, wanted, version).values()
        episodes = {entry.episode_id: entry for entry in entries}
        about = sorted((e.episode_id, e.initial_state_id, e.seed, e.success, e.steps) for e in entries)
        return {
            "episodes": len(episodes),
            "successes": found.successes,
            "stopped": sum(entry.outcome == "stopped" for entry in entries),
            "mean_steps": sum(entry.steps for entry in entries) / max(1, len(episodes)),
            "episode_ids": sorted(episodes),
            "data_hash": hash_json(about),
            "units": len(episodes),
        }

    def _score_inputs(self, stage: Stage, results: Results) -> dict[str, Any]:
        import grape_preference
        from grape_preference.objectives import OBJECTIVES

        data = self.study.data[stage.name]
        collected = {name: results[f"{COLLECT}/{name}"]["data_hash"] for name in data.collections}
        objective = OBJECTIVES.get(data.objective)
        # An option added later is an input only where it is used, so that what was scored before stays valid.
        later = (("balance", True), ("among_successes", False), ("states", None))
        about = data.model_dump(exclude={name for name, default in later if getattr(data, name) == default})
        scorer = hash_sources(Path(grape_preference.__file__).parent)  # judge, keypoints and stages
        return {"collected": collected, "scorer": scorer, "objective": str(objective), **about}

    def _score(self, stage: Stage, results: Results) -> dict[str, Any]:
        from grape_preference.folder import score_folder
        from grape_preference.plans import ScoringOptions

        data, folder = self.study.data[stage.name], self._data_folder(stage.name)
        episodes = link_episodes(self._rollouts(data, results), folder / "episodes")
        found = score_folder(
            episodes,
            folder,
            self.workers,
            preset=data.preset,
            top=data.top,
            margin=data.margin,
            reject_greedy=data.reject_greedy,
            among_successes=data.among_successes,
            balance=data.balance,
            options=ScoringOptions(data.objective, data.judge),
            progress=self.progress,
        )
        files = {path.name: hash_file(path) for path in (found.scores_path, found.pairs_path)}
        return {**score_statistics(found), "files": files, "units": len(found.scores)}

    def _rollouts(self, data: DataSet, results: Results) -> list[Path]:
        """Return the folders of a data set's rollouts."""
        found: list[Path] = []
        for name in data.collections:
            collection, root = self.study.collections[name], self._collection_folder(name)
            few = {"states": min(data.states or collection.states, collection.states)}
            states = set(collection.model_copy(update=few).state_ids())
            found += rollouts_from(root, results[f"{COLLECT}/{name}"]["episode_ids"], states)
        return found

    def _train_inputs(self, stage: Stage, results: Results) -> dict[str, Any]:
        arm = self.study.arms[stage.name]
        files = [results[f"{SCORE}/{data}"]["files"] for data in arm.data]
        return {
            "policy": load_vla(str(self.study.checkpoint)).version,
            "data": files[0] if len(files) == 1 else files,
            "options": asdict(arm.options(stage.seed)),
        }

    def _train(self, stage: Stage, results: Results) -> dict[str, Any]:
        from grape_training.pipeline import run_tpo

        arm, output = self.study.arms[stage.name], self._run_folder(stage)
        keep_if_same_inputs(output, hash_json(self._train_inputs(stage, results)))
        parts = [self._data_folder(name) for name in arm.data]
        data = parts[0] if len(parts) == 1 else join(parts, output / "data")
        result = run_tpo(
            self.study.checkpoint,
            data / "pairs.parquet",
            data / "episodes",
            output,
            arm.options(stage.seed),
            progress=self.progress,
        )
        adapter = output / "adapter"
        load_vla.cache_clear()  # an adapter of this place may have been another one before
        about = {key: value for key, value in asdict(result).items() if key != "adapter"}
        version = load_vla(str(adapter)).version
        return {**about, "version": version, "adapter": hash_folder(adapter), "units": result.pairs}

    def _gate_inputs(self, stage: Stage, results: Results) -> dict[str, Any]:
        suite = load_suite(self._gate_states.suite)
        return {
            "candidate": results[f"{TRAIN}/{stage.name}-{stage.seed}"]["version"],
            "incumbent": self.policy(self.study.arms[stage.name].incumbent, results, stage.seed)[1],
            "suite": suite.content_hash,
            "states": hash_json(self._gate_states.state_ids()),
            "max_steps": suite.max_steps,
            "seed": self.study.evaluation.seed,
        }

    def _gate(self, stage: Stage, results: Results) -> dict[str, Any]:
        """Let candidate and incumbent run from the gate's states; ``version`` is of the one that stays."""
        candidate = results[f"{TRAIN}/{stage.name}-{stage.seed}"]["version"]
        folder, incumbent = self.policy(self.study.arms[stage.name].incumbent, results, stage.seed)
        adapter = self.folder / TRAIN / f"{stage.name}-{stage.seed}" / "adapter"
        found = evaluate(
            {candidate: PolicySpec(str(adapter)), incumbent: PolicySpec(folder)},
            self._gate_states.state_ids(),
            self.folder / "evaluation" / "gate",
            suite=self._gate_states.suite,
            workers=self.workers,
            max_steps=load_suite(self._gate_states.suite).max_steps,
            seed=self.study.evaluation.seed,
            progress=self.progress,
        )
        made = decide(candidate, incumbent, found[candidate], found[incumbent])
        version = candidate if made.promote else incumbent
        return {**made.to_dict(), "version": version, "units": made.success.total}

    @property
    def _gate_states(self) -> GateStates:
        if self.study.gate is None:
            raise ValueError("a study without gate has no incumbents")  # refused where studies are read
        return self.study.gate

    def _evaluate_inputs(self, stage: Stage, results: Results) -> dict[str, Any]:
        plan = self.study.evaluation
        suite = load_suite(plan.of(stage.suite).suite)
        return {
            "policy": self.policy(stage.name, results, stage.seed)[1],
            "suite": suite.content_hash,
            "states": hash_json(plan.state_ids(stage.suite)),
            "max_steps": suite.max_steps,
            "temperature": plan.temperature_of(stage.suite),
            "seed": plan.seed,
        }

    def _evaluate(self, stage: Stage, results: Results) -> dict[str, Any]:
        plan = self.study.evaluation
        suite, temperature = plan.of(stage.suite).suite, plan.temperature_of(stage.suite)
        source, version = self.policy(stage.name, results, stage.seed)
        found = evaluate(
            {version: PolicySpec(source, temperature)},  # by version: equal policies run once
            plan.state_ids(stage.suite),
            self.folder / "evaluation" / suite_name(stage.suite),
            suite=suite,
            workers=self.workers,
            max_steps=load_suite(suite).max_steps,
            seed=plan.seed,
            progress=self.progress,
        )[version]
        return {"version": version, "rows": [row_of(cell) for cell in found], "units": len(found)}

    def _rollout_plan(self, collection: Collection) -> RolloutPlan:
        """Return the rollouts of a collection; an episode may last as long as its suite says."""
        from grape_training.collect import RolloutPlan

        return RolloutPlan(
            tuple(self._states(collection)),
            collection.rollouts,
            collection.temperature,
            collection.seed,
            load_suite(collection.suite).max_steps,
            collection.suite,
            collection.lift,
        )

    def _states(self, collection: Collection) -> list[str]:
        """Return the initial states to run: all, or those in which the judge saw a failure."""
        from grape_preference.folder import SCORES_NAME, load_scores

        if not collection.failed_in:
            return collection.state_ids()
        scores = load_scores(self._data_folder(collection.failed_in) / SCORES_NAME)
        failed = {score.initial_state_id for score in scores if score.i_success == 0.0}
        return [state for state in collection.state_ids() if state in failed]

    def _collection_folder(self, name: str) -> Path:
        return self.folder / "collections" / name

    def _data_folder(self, name: str) -> Path:
        return self.folder / "data" / name

    def _run_folder(self, stage: Stage) -> Path:
        return self.folder / stage.id
