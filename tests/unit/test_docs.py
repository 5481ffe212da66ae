"""The documentation says what the code does: generated pages, links, and the commands in the text."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def test_generated_pages_are_up_to_date() -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_docs.py", "--check"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


def documented_commands() -> list[str]:
    """Return every line in a code block of the pages that runs `grape`."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", "\n".join(p.read_text("utf-8") for p in PAGES), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return sorted({line for line in lines if re.match(r"(\.venv/bin/)?grape ", line)})


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_exist_with_their_options(command: str) -> None:
    from grape_training.cli import app
    from typer.main import get_command

    words = shlex.split(command)[1:]
    node = get_command(app)
    while hasattr(node, "commands") and words:
        if words[0] not in node.commands and "run" in node.commands:
            words.insert(0, "run")  # `grape score EPISODES`
        assert words[0] in node.commands, f"{command}: no command {words[0]}"
        node = node.commands[words.pop(0)]
    known = {name for parameter in node.params for name in [*parameter.opts, *parameter.secondary_opts]}
    unknown = {word for word in words if word.startswith("--")} - known - {"--help"}
    assert not unknown, f"{command}: no option {unknown}"
