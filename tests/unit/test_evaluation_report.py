"""A whole evaluation as `grape eval` runs it: files, page, exit codes; a browser shows all of the page."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import BROWSER, opened_page
from grape_training.cells import CellResult
from grape_training.comparison import compare_cells, summarise
from grape_training.evaluation_pictures import contact_sheet, side_by_side_film, stage_chart, success_chart
from grape_training.evaluation_report import write_evaluation_report
from grape_training.suites import load_suite
from PIL import Image
from test_cli import Run, grape

__all__ = ["grape"]  # the fixture
SMALL = ["--tasks", "stack_cube,spoon_on_towel", "--states", "2", "--workers", "1", "--max-steps", "20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a real evaluation of expert and idle policy."""
    from grape_training import cli
    from typer.testing import CliRunner

    output = tmp_path_factory.mktemp("evaluation")
    arguments = [
        "eval",
        "expert",
        "zero",
        *SMALL,
        "--check-states",
        "1",
        "--films",
        "1",
        "--output",
        str(output),
    ]
    result = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document == json.loads((output / "evaluation.json").read_text())
    return output


def test_summary_holds_what_was_measured_and_checked(folder: Path) -> None:
    document = json.loads((folder / "evaluation.json").read_text())
    expert = document["policies"]["expert"]
    assert expert["pooled"]["success"]["rate"] == 1.0
    assert expert["pooled"]["episodes"] == 4
    assert expert["tasks"]["stack_cube"]["stages"] == {"done": 2}
    assert 0.2 < expert["pooled"]["path_length"] < 1.5
    change = document["compared_with_first"]["zero"]
    assert change["success"]["lost"] == 4
    assert change["path_length"]["high"] < 0.0
    verdicts = {finding["check"]: finding["verdict"] for finding in document["checks"]["findings"]}
    assert verdicts == {"expert": "passed", "random": "passed", "zero": "passed"}
    assert document["checks"]["determinism"] == 4


def test_pictures_lie_beside_the_page(folder: Path) -> None:
    for name in ("success.png", "stages.png", "sheets/stack_cube.png", "sheets/spoon_on_towel.png"):
        picture = Image.open(folder / name)
        assert len(picture.getcolors(1 << 24) or []) > 10
    film = Image.open(folder / "films" / "stack_cube_eval_0000.webp")
    assert 10 < film.n_frames <= 21  # images that do not differ are stored once
    text = (folder / "evaluation.html").read_text()
    assert text.count("data:image/webp") == 2 + 2 * 3  # charts; per cell film, still, sheet
    assert "stack the green cube on the yellow cube" in text
    assert "http" not in re.sub(r"data:[^\"]*", "", text)


@pytest.mark.skipif(BROWSER is None, reason="needs chromium to open the page: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_without_an_error(folder: Path, tmp_path: Path, width: int) -> None:
    probe = opened_page((folder / "evaluation.html").read_text(), tmp_path, width)
    assert all(wide > 0 and high > 0 and alt for wide, high, alt in probe["images"])


def test_a_suite_that_was_not_shipped_has_a_page_too(tmp_path: Path) -> None:
    file = tmp_path / "kitchen.yaml"
    file.write_text("""
suite: my_kitchen
description: One wording.
include: [in_domain]
cells: {cubes: {tasks: [stack_cube], instructions: {stack_cube: [build a tower]}}}
""")
    suite = load_suite(str(file))
    cells = [CellResult("my_kitchen.cubes/eval/0000", True, True, 0, 5, stage="done")]
    document = {
        "suite": suite.name,
        "suite_hash": suite.content_hash,
        "description": suite.description,
        "seed": 0,
        "max_steps": 50,
        "policies": {"one": summarise(cells)},
        "compared_with_first": {},
        "checks": None,
    }
    films = {("one", cells[0].initial_state_id): np.zeros((3, 24, 32, 3), np.uint8)}
    text = write_evaluation_report(tmp_path, suite, document, {"one": cells}, films).read_text()
    assert "build a tower" in text


def test_skipped_checks_are_said_on_the_page(tmp_path: Path) -> None:
    cells = [CellResult(f"a/eval/{k:04d}", k == 0, True, 0, 5, stage="done") for k in range(3)]
    document = {
        "suite": "in_domain",
        "suite_hash": "0" * 64,
        "description": "<b>",
        "seed": 0,
        "max_steps": 50,
        "policies": {"one": summarise(cells), "two": summarise(cells)},
        "compared_with_first": {"two": compare_cells(cells, cells)},
        "checks": None,
    }
    results = {"one": cells, "two": cells}
    text = write_evaluation_report(tmp_path, load_suite("in_domain"), document, results, {}).read_text()
    assert "--no-checks" in text
    assert "--films 0" in text
    assert "<b>" not in text.replace("<body>", "")


def test_film_holds_the_ended_episode_still_and_sheet_has_a_row_per_state() -> None:
    rng = np.random.default_rng(0)
    short, long = (rng.integers(0, 255, (length, 180, 240, 3), dtype=np.uint8) for length in (3, 6))
    won, lost = CellResult("a/eval/0000", True, True, 0, 2), CellResult("a/eval/0000", False, False, 1, 5)
    film = Image.open(io.BytesIO(side_by_side_film([short, long], [won, lost], ["one", "two"])))
    assert film.n_frames == 6
    assert film.size == (2 * 240 + 6, 200)
    films = {("one", "a/eval/0000"): short, ("two", "a/eval/0000"): long}
    known = {("one", "a/eval/0000"): won, ("two", "a/eval/0000"): lost}
    one = contact_sheet("a", ["a/eval/0000"], ["one", "two"], films, known)
    assert one.width == 7 * 166 + 6
    policies = {"one": summarise([won]), "two": summarise([lost])}
    assert success_chart(policies).width == stage_chart(policies).width == 900


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["expert", "--suite", "no_such_suite"], "no_such_suite"),
        (["expert", "--tasks", "juggling"], "unknown task juggling"),
        (["nowhere/policy"], "nowhere/policy is no folder of a policy"),
        (["expert", "--split", "test"], "test"),
        (["zero", "--shuffle", "everything"], "unknown shuffle"),
        (["zero", "--ray", "127.0.0.1:1"], "Ray"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(grape: Run, arguments: list[str], words: str) -> None:
    code, output, errors = grape("eval", *arguments)
    assert code == 2, errors
    assert words in errors
    assert errors.startswith("error: ")
    assert not output


def test_a_suite_of_ones_own_is_run_and_its_content_counts(grape: Run, tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    text = "suite: mine\ndescription: One cell\ninclude: [in_domain]\ncells: {cubes: {tasks: [stack_cube]}}\n"
    suite.write_text(text)
    arguments = ["eval", "expert", "--suite", "mine.yaml", "--states", "1", "--workers", "1", "--json"]
    arguments += ["--no-checks", "--films", "0", "--output", "out"]
    code, output, errors = grape(*arguments)
    assert code == 0, errors
    found = json.loads(output)
    assert list(found["policies"]["expert"]["tasks"]) == ["mine.cubes"]
    assert found["policies"]["expert"]["pooled"]["success"]["count"] == 1
    assert (found["suite"], found["checks"]) == ("mine", None)
    suite.write_text(text.replace("One cell", "Another"))
    assert grape(*arguments)[0] == 0
    assert len(list((tmp_path / "out").glob("expert-*.jsonl"))) == 2
