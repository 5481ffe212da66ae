"""The command line: help for people, JSON for programs, exit codes, one line instead of a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from grape_training import cli
from grape_training.errors import BadInputError, UserError
from typer.testing import CliRunner
from vla_factory import tiny_checkpoint

COMMANDS = [
    "doctor",
    "up",
    "collect",
    "score",
    "demos",
    "scenes",
    "train tpo",
    "train sft",
    "train pretrain",
    "eval",
    "bench sim",
    "bench inference",
    "promote",
    "rollback",
    "loop",
    "propose",
    "report",
    "versions",
    "checkpoint inspect",
    "checkpoint parity",
    "constraints check",
]


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def grape(monkeypatch, capsys, tmp_path) -> Run:
    """Run the command line in this process, in an empty folder; return exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["grape", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(cli.app, [*command.split(), "--help"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    assert "Usage" in result.output
    undocumented = [
        line
        for line in result.output.splitlines()
        if line.strip(" │").startswith("--") and len(line.split()) < 4
    ]
    assert not undocumented


def test_help_needs_no_heavy_library(tmp_path):
    code = (
        "import sys; import grape_training.cli; "
        "bad = {'torch', 'mujoco', 'rclpy', 'transformers', 'scipy', 'pyarrow'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["rollback"], 1, "no earlier version"),
        (["eval", "expert", "--tasks", "juggling"], 2, "unknown task juggling"),
        (["checkpoint", "inspect", "nowhere"], 2, "nowhere"),
        (["constraints", "check", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["score", "nowhere"], 2, "no finished episodes"),
        (["train", "tpo", "--policy", "nowhere"], 2, "nowhere"),
        (["loop", "--no-ros", "--checkpoint", "nowhere"], 1, "no folder nowhere"),
        (["loop", "--no-ros", "--tries", "2", "--states", "3"], 2, "3 of 2 initial states per task"),
        (["no-such-command"], 2, "No such command"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(grape, arguments, code, words):
    found, output, errors = grape(*arguments)
    assert found == code, errors
    assert words in errors
    assert not output


def test_damaged_config_is_named(grape, tmp_path):
    tiny_checkpoint(tmp_path / "policy")
    (tmp_path / "policy" / "config.json").write_text("{")
    code, _, errors = grape("loop", "--no-ros", "--checkpoint", "policy")
    assert code == 1
    assert "error: checkpoint: " in errors


def test_json_output_is_one_document(grape, tmp_path):
    version = tiny_checkpoint(tmp_path / "policy")
    _, output, _ = grape("checkpoint", "inspect", "policy", "--json")
    assert json.loads(output)["version"] == version


def test_as_a_process_it_ends_with_the_exit_code_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "grape_training.cli", "rollback"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UserError("it broke", "Mend it"), "it broke. Mend it", 1),
        (BadInputError("it is odd"), "it is odd", 2),
        (OSError(28, "No space left on device", "runs/x"), "no space left on the disk (runs/x)", 1),
        (ValueError("beta must be positive"), "beta must be positive", 2),
        (ZeroDivisionError("division by zero"), "GRAPE_TRACEBACK", 1),
    ],
)
def test_any_error_becomes_a_line(error, line, code):
    found, found_code = cli.describe(error)
    assert line in found
    assert found_code == code


def test_old_python_is_told_what_to_do():
    """The version check stands before anything that an old Python cannot import."""
    source = Path(cli.__file__).read_text().splitlines()
    check = next(number for number, line in enumerate(source) if "sys.version_info" in line)
    first = next(number for number, line in enumerate(source) if line.startswith("from grape_training"))
    assert check < first
    assert "3.11" in source[check + 1]
