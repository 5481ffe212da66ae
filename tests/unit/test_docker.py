"""The container files parse and name only what exists (no container engine is needed)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "ENTRYPOINT", "CMD"}


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return (instruction, arguments) with continued lines joined and comments dropped."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, arguments) for name, arguments in pairs]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_parses_and_copies_what_exists(path: Path) -> None:
    steps = instructions(path)
    assert steps[0][0] == "FROM"
    assert {name for name, _ in steps} <= INSTRUCTIONS
    for name, arguments in steps:
        if name == "COPY":
            assert all((ROOT / source).exists() for source in arguments.split()[:-1]), arguments
        if name in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(arguments), list)
        if name == "RUN":
            subprocess.run(["bash", "-n", "-c", arguments], check=True)


def test_paths_inside_the_images_are_those_of_the_repository() -> None:
    text = "".join(path.read_text() for path in DOCKERFILES)
    inside = {
        word
        for word in text.replace(":", " ").replace('"', " ").replace("=", " ").split()
        if "/opt/grape/" in word
    }
    assert len(inside) >= 5
    for word in inside:
        assert (ROOT / word.removeprefix("/opt/grape/")).exists(), word


def test_compose_file_builds_the_files_that_exist() -> None:
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    built = {ROOT / service["build"]["dockerfile"] for service in services.values()}
    assert built == set(DOCKERFILES)
    assert services["robot"]["devices"] == ["/dev/bus/usb:/dev/bus/usb"]
    reserved = services["trainer"]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved[0]["capabilities"] == ["gpu"]
    for service in services.values():
        for volume in service["volumes"]:
            assert volume.split(":")[0] in ("../runs", "../checkpoints")


@pytest.mark.parametrize("package", ["grape_policy", "grape_preference", "grape_sim"])
def test_every_ros_package_that_is_imported_is_declared(package: str) -> None:
    folder = ROOT / "ros2_ws" / "src" / package
    sources = "\n".join(path.read_text() for path in folder.rglob("*.py"))
    imported = set(
        re.findall(r"^\s*(?:from|import) (rclpy|std_srvs|\w+_(?:msgs|interfaces))\b", sources, re.M)
    )
    declared = set(re.findall(r"<exec_depend>(\w+)</exec_depend>", (folder / "package.xml").read_text()))
    assert imported
    assert imported <= declared


def test_the_robot_is_stopped_as_by_ctrl_c_and_may_raise_priorities() -> None:
    robot = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["robot"]
    assert robot["stop_signal"] == "SIGINT"
    assert robot["cap_add"] == ["SYS_NICE"]


def test_the_robot_starts_arguments_that_the_stack_has() -> None:
    from grape_policy import stack

    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    given = [word.split(":=")[0] for word in services["robot"]["command"] if ":=" in word]
    assert set(given) <= {argument.name for argument in stack.ARGUMENTS}


@pytest.mark.parametrize("script", ["docker/entrypoint.sh", "scripts/setup.sh", ".ci/run"])
def test_scripts_parse_and_are_executable(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
