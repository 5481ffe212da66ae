"""A tiny study through all its stages: killed and resumed, rebuilt from its raw results, changed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import grape_preference
import headline_factory as factory
import pytest
from grape_episodes.manifest import read_manifest
from grape_preference.folder import load_scores, save_scores
from grape_preference.pairs import load_pairs
from grape_training.errors import BadInputError
from grape_training.evaluation import evaluate
from grape_training.files import hash_file, read_json, write_json
from grape_training.headline import rebuild
from grape_training.headline_data import rollouts_from
from grape_training.headline_figures import draw_figures
from grape_training.headline_plan import Study, load_study, parse_study, shipped_study
from grape_training.headline_raw import CURVES, EPISODES, STAGES, _read_table, _write_table, export, read_raw
from grape_training.headline_run import DONE, OPEN, WAITING, StudyRun
from grape_training.headline_stages import list_stages
from grape_training.headline_work import Work
from grape_training.pipeline import run_tpo
from grape_training.policies import PolicySpec

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 300.0  # s
Made = tuple[Study, Path, Path]


def lines(folder: Path, pattern: str) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(pattern))


# Stages in their order, and when they are killed: in the middle of evaluating, collecting and training.
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "evaluate/short/sft-0": lambda out: lines(out, "evaluation/short/*.jsonl") > 0,
    "collect/first": lambda out: len(list((out / "collections/first").glob("*/episode.json"))) > 0,
    "train/grape_1-0": lambda out: lines(out, "train/grape_1-0/metrics.jsonl") > 2,
}


def run_and_kill(folder: Path, output: Path, moment: Callable[[Path], bool]) -> None:
    script = ROOT / "tests/headline_factory.py"
    environment = {**os.environ, "MUJOCO_GL": "egl"}
    process = subprocess.Popen([sys.executable, script, folder, output], env=environment)
    deadline = time.monotonic() + TIMEOUT
    while not moment(output):
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """The study, the folder of its run, which was killed three times, and the folder of its results."""
    folder = tmp_path_factory.mktemp("study")
    study, output = factory.tiny_study(folder), folder / "run"
    for stage, moment in MOMENTS.items():
        run_and_kill(folder, output, moment)
        assert not (output / f"stages/{stage}.json").exists()
    export(factory.run(study, output), factory.study_text(folder), folder / "results/tiny")
    rebuild(folder / "results", "tiny")
    return study, output, folder / "results"


def copied(made: Made, folder: Path) -> Path:
    """Return a copy of the results that a test may spoil."""
    return Path(shutil.copytree(made[2], folder / "results"))


def test_a_killed_study_has_each_rollout_and_episode_once(made):
    _, output, results = made
    raw = read_raw(results / "tiny")
    assert [len(cells) for cells in raw.episodes.values()] == [4] * 6
    assert not raw.missing
    collected = read_json(output / "stages/collect/first.json")["result"]
    assert collected["episodes"] == len(collected["episode_ids"]) == 4
    assert lines(output, "evaluation/short/*.jsonl") == 16  # a refused iteration is its incumbent
    assert lines(output, "train/grape_1-0/metrics.jsonl") == 20 * raw.stages["score/task"]["result"]["pairs"]
    assert raw.stages["evaluate/short/sft-0"]["cost"]["processor"] > 0.0


def test_a_killed_training_gives_the_bits_of_an_undisturbed_one(made, tmp_path):
    study, output, _ = made
    data, options = output / "data/task", study.arms["grape_1"].options(0)
    run_tpo(study.checkpoint, data / "pairs.parquet", data / "episodes", tmp_path, options, progress=False)
    weights = Path("adapter/adapter_model.safetensors")
    assert hash_file(tmp_path / weights) == hash_file(output / "train/grape_1-0" / weights)
    assert options.seed == 0
    assert study.arms["grape_1"].options(1) == replace(options, seed=1)


def test_a_killed_evaluation_gives_the_numbers_of_an_undisturbed_one(made, tmp_path, monkeypatch):
    from grape_training import evaluation

    study, _, results = made
    suite = study.evaluation.suites[0].suite
    monkeypatch.setattr(evaluation, "run_parallel", factory.here)
    specs = {"sft": PolicySpec(str(study.checkpoint))}
    states = study.evaluation.state_ids(suite)
    found = evaluate(specs, states, tmp_path, suite=suite, max_steps=3, progress=False)["sft"]
    kept = read_raw(results / "tiny").episodes[suite, "sft", 0]
    assert [round(cell.path_length, 5) for cell in found] == [cell.path_length for cell in kept]
    assert [cell.initial_state_id for cell in kept] == states


def test_a_suite_is_evaluated_with_two_decodings(made):
    study, _, results = made
    kept = read_raw(results / "tiny").episodes
    greedy, sampled = kept[study.evaluation.suites[0].suite, "sft", 0], kept["sampled", "sft", 0]
    assert [cell.initial_state_id for cell in greedy] == [cell.initial_state_id for cell in sampled]
    assert [cell.path_length for cell in greedy] != [cell.path_length for cell in sampled]


def test_the_second_iteration_adds_the_first_ones_rollouts_and_starts_anew(made):
    output = made[1]
    first = read_json(output / "stages/train/grape_1-0.json")["result"]
    second = read_json(output / "stages/collect/second.json")["result"]
    folders = [output / "collections/second" / name for name in second["episode_ids"]]
    manifests = [read_json(folder / "episode.json") for folder in folders]
    assert {manifest["policy_version"] for manifest in manifests} == {first["version"]}
    base = Path(read_json(output / "train/grape_2-0/adapter/adapter_config.json")["base_model_name_or_path"])
    assert base == made[0].checkpoint.resolve()
    linked = {path.name for path in (output / "data/both/episodes").iterdir()}
    assert set(second["episode_ids"]) < linked
    assert len(linked) == 6


def test_a_refused_iteration_leaves_its_incumbent_in_place(made):
    """Policies of few random weights never succeed in three steps, so no gate can find one better."""
    study, output, results = made
    first, second = (read_json(output / f"stages/train/grape_{n}-0.json")["result"] for n in (1, 2))
    gate = read_json(output / "stages/gate/grape_2-0.json")["result"]
    assert not gate["promote"]
    assert (gate["candidate"], gate["incumbent"]) == (second["version"], first["version"])
    assert gate["version"] == first["version"]
    assert gate["success"]["total"] == 2
    assert lines(output, "evaluation/gate/*.jsonl") == 4
    raw = read_raw(results / "tiny")
    suite = study.evaluation.suites[0].suite
    assert raw.episodes[suite, "grape_2", 0] == raw.episodes[suite, "grape_1", 0]
    assert "refused, the incumbent stays" in (results / "tiny.md").read_text()


def test_a_promoted_iteration_is_the_arms_policy(made):
    study, output, _ = made
    work, run = Work(study, output, progress=False), StudyRun(Work(study, output, progress=False))
    second = run.results["train/grape_2-0"]["version"]
    better = {"promote": True, "version": second}
    folder, version = work.policy("grape_2", {**run.results, "gate/grape_2-0": better})
    assert (Path(folder), version) == (output / "train/grape_2-0/adapter", second)
    first = run.results["train/grape_1-0"]["version"]
    assert work.policy("grape_2", run.results) == (str(output / "train/grape_1-0/adapter"), first)


def test_a_gate_is_where_its_arm_waits_for_it(made):
    stages = {stage.id: stage for stage in list_stages(made[0])}
    assert stages["gate/grape_2-0"].needs == ("train/grape_2-0", "train/grape_1-0")
    assert stages["train/grape_2-0"].needs == ("score/both",)
    assert stages["evaluate/short/grape_2-0"].needs == ("gate/grape_2-0",)


def test_a_collection_is_run_where_another_failed(made, tmp_path):
    study, output, _ = made
    scores = load_scores(output / "data/task/scores.json")
    judged = [replace(score, i_success=float(score.task == "spoon_on_towel")) for score in scores]
    save_scores(judged, tmp_path / "data/task/scores.json")
    waiting = study.collections["first"].model_copy(update={"failed_in": "task"})
    plan = Work(study, tmp_path)._rollout_plan(waiting)
    assert plan.states == ("short.carrot_on_plate/collect/0000",)
    assert plan.rollouts == waiting.rollouts


def test_a_collection_waits_for_the_scores_that_say_where_it_is_needed(made):
    text = broken(made[0].checkpoint.parent, "first_state: 5", "first_state: 0\n    failed_in: task")
    stages = {stage.id: stage for stage in list_stages(parse_study(text, "study.yaml"))}
    assert stages["collect/second"].needs == ("train/grape_1-0", "score/task")
    assert list(stages).index("score/task") < list(stages).index("collect/second")


def test_an_arm_joins_the_pairs_of_several_data_sets(made, tmp_path):
    text = broken(made[0].checkpoint.parent, "DPO, data: task", "DPO, data: [task, later]")
    study = parse_study(text.replace("  both:", "  later: {collections: [second]}\n  both:"), "study.yaml")
    output = Path(shutil.copytree(made[1], tmp_path / "run", symlinks=True))
    results = factory.run(study, output, "train/step_dpo-0").results
    joined = output / "train/step_dpo-0/data"
    parts = [load_pairs(output / f"data/{name}/pairs.parquet") for name in ("task", "later")]
    assert load_pairs(joined / "pairs.parquet") == parts[0] + parts[1]
    assert results["train/step_dpo-0"]["pairs"] == len(parts[0]) + len(parts[1]) > len(parts[0]) > 0
    collected = (results[f"collect/{name}"]["episode_ids"] for name in ("first", "second"))
    assert sorted(path.name for path in (joined / "episodes").iterdir()) == sorted(chain(*collected))
    assert len(load_scores(joined / "scores.json")) == 6


def test_a_data_set_of_few_states_has_the_rollouts_of_the_first_ones(made):
    study, output, _ = made
    text = broken(made[0].checkpoint.parent, "states: 1, rollouts: 2", "states: 2, rollouts: 2")
    text = text.replace("task: {collections: [first]}", "task: {collections: [first], states: 1}")
    work = Work(parse_study(text, "study.yaml"), output)
    results = StudyRun(Work(study, output, progress=False)).results
    first = work._rollouts(work.study.data["task"], results)
    assert {path.name for path in first} == set(results["collect/first"]["episode_ids"])
    one = {read_manifest(first[0]).initial_state_id}
    few = rollouts_from(output / "collections/first", [path.name for path in first], one)
    assert (len(few), len(first)) == (2, 4)
    assert {read_manifest(path).initial_state_id for path in few} == one


def test_what_is_done_is_not_done_again(made):
    study, output, _ = made
    before = {path: path.stat().st_mtime_ns for path in (output / "stages").rglob("*.json")}
    assert len(before) == 15
    run = factory.run(study, output)
    assert all(each.state == DONE and each.seconds == 0.0 for each in run.progress())
    assert {path: path.stat().st_mtime_ns for path in before} == before


def states_of(study: Study, output: Path, only: str = "*") -> dict[str, str]:
    run = StudyRun(Work(study, output, progress=False))
    return {each.stage.id: each.state for each in run.progress(only)}


def test_changed_options_do_again_what_depends_on_them(made):
    study, output, _ = made
    arm = study.arms["grape_1"]
    changed = arm.model_copy(update={"tpo": replace(arm.tpo, epochs=3)})
    found = states_of(study.model_copy(update={"arms": {**study.arms, "grape_1": changed}}), output)
    assert found["train/grape_1-0"] == found["train/grape_1-1"] == OPEN
    waiting = {name for name, state in found.items() if state == WAITING}
    assert waiting == {
        *("evaluate/short/grape_1-0", "evaluate/short/grape_1-1"),
        *("collect/second", "score/both", "train/grape_2-0", "gate/grape_2-0", "evaluate/short/grape_2-0"),
    }
    assert found["train/step_dpo-0"] == found["score/task"] == DONE


def test_changed_data_and_policies_do_again_what_depends_on_them(made, tmp_path):
    study, output, _ = made
    spoiled = Path(shutil.copytree(output, tmp_path / "run", symlinks=True))
    adapter = spoiled / "train/step_dpo-0/adapter/adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes() + b" ")
    found = states_of(study, spoiled)
    assert found["train/step_dpo-0"] == OPEN
    assert found["evaluate/short/step_dpo-0"] == WAITING
    scores = spoiled / "data/task/scores.json"
    scores.write_text(scores.read_text() + " ")
    assert states_of(study, spoiled)["score/task"] == OPEN
    episode = read_json(spoiled / "stages/collect/first.json")["result"]["episode_ids"][0]
    shutil.rmtree(spoiled / "collections/first" / episode)
    found = states_of(study, spoiled)
    assert found["collect/first"] == OPEN
    assert found["evaluate/short/sft-0"] == DONE


def test_a_changed_judge_does_the_scores_again(made, tmp_path, monkeypatch):
    study, output, _ = made
    package = Path(shutil.copytree(Path(grape_preference.__file__).parent, tmp_path / "grape_preference"))
    monkeypatch.setattr(grape_preference, "__file__", str(package / "__init__.py"))
    assert states_of(study, output)["score/task"] == DONE
    (package / "left_over.pyc").write_bytes(b"compiled")
    assert states_of(study, output)["score/task"] == DONE
    judge = package / "judge.py"
    judge.write_text(judge.read_text() + "\nLIMIT = 2\n")
    found = states_of(study, output)
    assert (found["collect/first"], found["score/task"]) == (DONE, OPEN)


def test_only_what_is_asked_for_and_what_it_needs_is_listed(made):
    study, output, _ = made
    assert list(states_of(study, output, "evaluate/*/step_dpo-*")) == [
        *("collect/first", "score/task", "train/step_dpo-0", "evaluate/short/step_dpo-0")
    ]


def test_the_table_is_rebuilt_bit_for_bit_from_the_raw_results(made, tmp_path):
    results = copied(made, tmp_path)
    for path in (results / "tiny.json", results / "tiny.md", *results.glob("tiny/*.png")):
        path.unlink()
    rebuild(results, "tiny")
    names = [path.relative_to(results) for path in sorted(results.rglob("*")) if path.is_file()]
    assert len(names) == 9
    assert all((results / name).read_bytes() == (made[2] / name).read_bytes() for name in names)


def forged(results: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    """Change the rows of the episodes and make the hash fit."""
    path = results / "tiny" / EPISODES
    rows = change(_read_table(path))
    _write_table(path, list(rows[0]), [list(row.values()) for row in rows])
    document = read_json(results / "tiny" / STAGES)
    document["files"][EPISODES] = hash_file(path)
    write_json(results / "tiny" / STAGES, document)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "lacks 1 of 4 episodes"),
        (lambda rows: rows[4:], "1 of 6 cells have no episodes"),
        (lambda rows: [*rows, rows[0]], "has 1 too many"),
        (lambda rows: [{**rows[0], "initial_state_id": "short.x/eval/0"}, *rows[1:]], "lacks 1 of 4"),
        (lambda rows: [{**rows[0], "success": "1"}, *rows[1:]], "differ in successes"),
        (lambda rows: [{**rows[0], "arm": "nobody"}, *rows[1:]], "not in the study"),
        (lambda rows: [{**rows[0], "steps": "three"}, *rows[1:]], "damaged"),
    ],
)
def test_missing_doubled_and_changed_rows_are_refused(made, tmp_path, change, message):
    results = copied(made, tmp_path)
    forged(results, change)
    with pytest.raises(BadInputError, match=message):
        rebuild(results, "tiny")


def test_a_changed_file_is_refused_and_a_part_must_be_asked_for(made, tmp_path):
    results = copied(made, tmp_path)
    path = results / "tiny" / CURVES
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BadInputError, match=r"curves\.csv\.gz is not the file"):
        rebuild(results, "tiny")
    results = copied(made, tmp_path / "second")
    forged(results, lambda rows: [row for row in rows if row["arm"] != "step_dpo"])
    document = rebuild(results, "tiny", partial=True)
    assert document["missing"] == [f"{made[0].evaluation.suites[0].suite}/step_dpo/0"]
    assert document["p_in_domain_vs"] == {"sft": 1.0, "step_dpo": None}
    assert "Not complete" in (results / "tiny.md").read_text()


def test_a_study_of_many_arms_is_drawn(made, tmp_path):
    study, path = read_json(made[2] / "tiny.json"), tmp_path / "success_by_arm.png"
    others = {f"other_{number}": {"title": "Other", "seeds": [0]} for number in range(12)}
    arms = {name: arm.model_dump() for name, arm in made[0].arms.items()}
    draw_figures(study, {"arms": {**others, **arms}, "claims": made[0].claims.model_dump()}, {}, tmp_path)
    assert path.stat().st_size > 0


def test_a_killed_stages_hours_are_kept(made):
    clocks = list((made[1] / "clocks").rglob("*.json"))
    assert len(clocks) == 15
    saved = read_json(made[1] / "stages/train/grape_1-0.json")
    assert saved["cost"]["wall"] > 0.0
    assert saved["machine"]["cores"] >= 1
    assert "processor" in saved["machine"]


def test_the_shipped_study_has_what_the_claims_need():
    study = load_study(shipped_study("full"))
    for each in study.evaluation.suites:
        assert len(study.evaluation.state_ids(each.suite)) >= 200
    seeds = {arm: about.seeds for arm, about in study.arms.items()}
    repeated = {study.claims.candidate, *study.claims.baselines} - {study.claims.reference}
    assert all(len(seeds[arm]) >= 3 for arm in repeated)
    wide = {*study.claims.in_domain, *study.claims.unseen}
    assert all((suite, arm, seed) in study.cells for suite in wide for arm in repeated for seed in seeds[arm])
    for name in {data for about in study.arms.values() for data in about.data}:
        rollouts: Counter[str] = Counter()
        for collection in (study.collections[each] for each in study.data[name].collections):
            rollouts.update(dict.fromkeys(collection.state_ids(), collection.rollouts))
        assert min(rollouts.values()) >= 5
    assert {study.arms[arm].tpo.method for arm in repeated} == {
        "tpo",
        "dpo",
        "random-pairs",
        "rejection-sampling",
    }
    quick = load_study(shipped_study("quick"))
    assert set(quick.arms) < set(study.arms)
    assert {suite for suite, _, _ in quick.cells} == {"in_domain"}


def test_the_results_in_the_docs_are_those_of_their_raw_rows(tmp_path):
    results = Path(shutil.copytree(ROOT / "docs" / "results", tmp_path / "results"))
    rebuild(results, "headline")
    for name in ("headline.json", "headline.md"):
        assert (results / name).read_text() == (ROOT / "docs" / "results" / name).read_text()


def broken(folder: Path, old: str, new: str) -> str:
    text = factory.study_text(folder)
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("states: 1, rollouts", "split: eval, states: 1, rollouts", "2 initial states are evaluated too"),
        ("data: task\n    seeds", "data: tusk\n    seeds", r"arms\.grape_1\.data: unknown name tusk"),
        ("candidate: grape_1", "candidate: grape_9", "grape_9"),
        ("policy: sft,", "policy: grape_2,", "an arm cannot need itself"),
        ("rollouts: 2, temperature: 1.0}", "rollouts: 0, temperature: 1.0}", r"collections\.first\.rollouts"),
        ("rollouts: 2, temperature: 1.0}", "rollouts: 1, temperature: 1.0}", r"data\.task: no initial state"),
        ("epochs: 20", "epoch: 20", r"tpo\.epoch"),
        ("pairs_per_step: 1", "pairs_per_step: many", r"tpo\.pairs_per_step"),
        ("title: DPO, data: task", "title: DPO", "trained"),
        ("first_state: 5", "failed_in: tusk", r"collections\.second\.failed_in: unknown name tusk"),
        ("DPO, data: task", "DPO, data: [task, both]", "first is in two of the data sets"),
        ("task: {collections: [first]}", "task: {collections: [first], states: 0}", r"data\.task\.states"),
        ("first_state: 5", "failed_in: both", r"collections\.second: both has second, which waits"),
        ("gate: {suite", "gates: {suite", "gates"),
        ("split: train", "split: eval", "gate: 2 initial states are evaluated too"),
        ("split: train, first_state: 0", "split: collect, first_state: 0", "2 initial states are the gate's"),
        ("incumbent: grape_1", "incumbent: grape_9", r"arms\.grape_2\.incumbent: unknown name grape_9"),
        ("data: task, tpo", "incumbent: sft, tpo", "nothing is trained without data"),
        ("name: tiny", "name: [tiny", "is not YAML"),
    ],
)
def test_a_study_that_cannot_be_is_refused(made, old, new, message):
    with pytest.raises(BadInputError, match=message):
        parse_study(broken(made[0].checkpoint.parent, old, new), "study.yaml")


def test_data_sets_of_other_presets_are_not_joined(made):
    text = broken(made[0].checkpoint.parent, "DPO, data: task", "DPO, data: [task, later]")
    text = text.replace("  both:", '  later: {collections: [second], preset: "0,1,1"}\n  both:')
    with pytest.raises(BadInputError, match=r"arms\.step_dpo\.data: .* presets 0,1,1 and balanced"):
        parse_study(text, "study.yaml")
