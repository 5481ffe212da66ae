"""The report: complete on a whole run, honest on half a run, and a browser shows all of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from browser import BROWSER, opened_page
from grape_episodes.writer import write_episode
from grape_preference.folder import score_folder
from grape_sim.environment import SimEnvironment
from grape_training.errors import BadInputError
from grape_training.evaluation import CellResult, compare, summarise
from grape_training.files import append_json_line, write_json
from grape_training.gate import DEMO, decide
from grape_training.loop_summary import make_summary
from grape_training.report import build_report, write_report
from grape_training.report_charts import Band, line_chart
from preference_rollouts import roll_out


def cells(successes: int) -> list[CellResult]:
    return [
        CellResult(f"{task}/eval/{index:04d}", index < successes, True, index % 3, 20)
        for task in ("carrot_on_plate", "stack_cube")
        for index in range(10)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run: two real episodes of one initial state, scored and paired, and made-up training."""
    run = tmp_path_factory.mktemp("runs") / "demo"
    environment = SimEnvironment(depth=True)
    for noise in (0.0, 0.04):
        rollout = roll_out(environment, "carrot_on_plate/collect/0001", noise, seed=5, max_steps=16)
        write_episode(run / "episodes", rollout.episode)
    environment.close()
    score_folder(run / "episodes", workers=1, progress=False)
    before, after = cells(3), cells(8)
    evaluated = {name: summarise(found) for name, found in (("before", before), ("after", after))}
    evaluated["difference"] = compare(after, before)
    decision = decide("new-11111111", "old-00000000", after, before, DEMO).to_dict()
    results = {
        "try": {"episodes": 1, "successes": 0, "failed": 1, "chosen": ["carrot_on_plate/collect/0001"]},
        "collect": {"episodes": 1, "successes": 1},
        "train": {"candidate": "new-11111111", "pairs": 1, "steps": 6}
        | dict.fromkeys(("loss", "margin", "accuracy", "kl"), 0.1),
        "evaluate": evaluated,
        "gate": decision,
    }
    summary = make_summary(run, "old-00000000", results, {"collect": 12.5, "score": 1.0})
    write_json(run / "summary.json", summary)
    for step in range(6):
        row = {"step": step, "loss": 0.7 - 0.1 * step, "margin": 0.1 * step, "accuracy": 0.5, "kl": 0.0}
        append_json_line(run / "tpo" / "metrics.jsonl", row)
    for stage in ("pre-training", "fine-tuning"):
        for step in (20, 40):
            row = {"stage": stage, "step": step, "tokens": 10.0 / step, "accuracy": step / 100}
            append_json_line(run / "registry" / "versions" / "old-00000000" / "training_curve.jsonl", row)
    return run


def test_page_tells_the_figures_of_the_run(run: Path) -> None:
    page = build_report(run)
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL))
    text = re.sub(r"\s+", " ", text)
    assert "success before 30 % (15 to 52)" in text
    assert "success after 80 % (58 to 92)" in text
    assert "preference pairs 1" in text
    assert "TPO loss, first to last 0.700 to 0.200" in text
    assert "10 initial states gained, 0 lost, exact McNemar p = 0.002." in text
    assert "put the carrot on the plate" in text
    assert "Before: pre-training" in text
    assert "Before: fine-tuning" in text
    assert "success: carrot" in text
    assert text.index("chosen success") < text.index("rejected failure")


def test_page_loads_nothing_and_runs_nothing(run: Path) -> None:
    page = build_report(run)
    sources = re.findall(r'(?:src|href|srcset)="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "<script" not in page
    assert not re.search(r"url\((?!data:)", page)
    assert all("alt=" in image for image in re.findall(r"<img [^>]*>", page))


def test_words_from_files_are_escaped(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    scores = json.loads((copy / "episodes" / "scores.json").read_text())
    scores["episodes"][0]["outcome"] = "<script>alert(1)</script>"
    (copy / "episodes" / "scores.json").write_text(json.dumps(scores))
    assert "<script" not in build_report(copy)


def test_files_of_another_version_and_damaged_episodes_are_named(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    path = copy / "episodes" / "scores.json"
    scores = json.loads(path.read_text())
    path.write_text(
        json.dumps(scores | {"episodes": [{**row, "stages": [{}]} for row in scores["episodes"]]})
    )
    with pytest.raises(BadInputError, match=r"scores.json: not a file of scores"):
        build_report(copy)
    path.write_text(json.dumps(scores))
    next(copy.rglob("*.mcap")).write_bytes(b"")
    with pytest.raises(BadInputError, match="differs from its sha256"):
        build_report(copy)


def test_half_a_run_says_what_is_missing_and_how_to_get_it(run: Path, tmp_path: Path) -> None:
    shutil.copytree(
        run / "episodes", tmp_path / "episodes", ignore=shutil.ignore_patterns("*.json", "*.parquet")
    )
    for folder in (run / "episodes").glob("*/"):
        shutil.copy(folder / "episode.json", tmp_path / "episodes" / folder.name)
    page = build_report(tmp_path)
    for command in ("grape loop", "grape score", "grape train tpo"):
        assert command in page


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("summary.json", "{}", "is no summary of a loop"),
        ("summary.json", "{", "is damaged"),
        ("scores.json", "[]", "is no file of scores"),
        ("pairs.parquet", "nonsense", "is no table of pairs"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInputError, match=complaint) as refusal:
        build_report(tmp_path)
    assert name in str(refusal.value)


def test_an_empty_or_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="holds nothing to report"):
        write_report(tmp_path)
    with pytest.raises(BadInputError, match="is not a folder"):
        write_report(tmp_path / "absent")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(BROWSER is None, reason="needs chromium to open the page: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_every_image_and_reports_no_error(run: Path, tmp_path: Path, width: int) -> None:
    probe = opened_page(write_report(run).read_text(), tmp_path, width)
    assert probe["charts"] == 8
    assert len(probe["images"]) == 5
    assert all(wide > 0 and high > 0 and alt for wide, high, alt in probe["images"])


def test_charts_leave_gaps_and_scale_to_the_data() -> None:
    chart = line_chart(
        {"a": [0.0, 1.0, float("nan"), 3.0], "<b>": [-0.5]},
        title="t",
        x_label="x",
        y_label="y",
        top=9.0,
        bands=[Band(0, 2, "s")],
    )
    assert chart.count("<polyline") == 1
    assert chart.count("<circle") == 2
    assert ">10</text>" in chart
    assert ">-2</text>" in chart
    assert "&lt;b&gt;" in chart
    assert "No data" in line_chart({"a": []}, title="t", x_label="x", y_label="y")
