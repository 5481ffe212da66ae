"""The doctor finds what is wrong on a machine and says what to do."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from grape_episodes import contract
from grape_policy import doctor


def refused(check: doctor.Check, detail: str, remedy: str) -> None:
    assert not check.ok
    assert detail in check.detail
    assert remedy in check.remedy
    assert "\n" not in check.detail + check.remedy
    assert "Traceback" not in check.detail


def test_a_good_machine_passes() -> None:
    checks = [doctor.check_python(), doctor.check_contract(), doctor.check_rendering(), doctor.check_ros()]
    assert all(check.ok and not check.remedy for check in checks), checks


def test_missing_egl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent.json")
    refused(doctor.check_rendering(), "", "apt-get install -y libegl1")


def test_ros_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_that_is_not_installed")
    refused(doctor.check_ros(), "", "make setup")


def test_busy_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "101")
    assert doctor.check_domain().ok
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("127.0.0.1", 7400 + 250 * 101 + 10))
        refused(doctor.check_domain(), "1 ROS participant(s) on domain 101", "ROS_DOMAIN_ID=")


@pytest.mark.parametrize("value", ["abc", "-1", "4000"])
def test_domain_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", value)
    refused(doctor.check_domain(), value, "export ROS_DOMAIN_ID=")


def test_no_disk_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.check_disk(tmp_path / "not" / "there" / "yet").ok
    monkeypatch.setattr(doctor, "NEEDED_DISK_BYTES", 1e18)
    refused(doctor.check_disk(tmp_path), str(tmp_path), "free 1e+09 GB")


def test_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED_SHARED_MEMORY_BYTES", 1e18)
    refused(doctor.check_memory(), "shared memory", "--shm-size")
    monkeypatch.setattr(doctor, "NEEDED_MEMORY_BYTES", 1e18)
    refused(doctor.check_memory(), "GB free", "close other programs")


def test_wrong_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PYTHON_VERSIONS", ((3, 99),))
    refused(doctor.check_python(), "3.", "install Python 3.11")


def test_missing_and_damaged_checkpoint(tmp_path: Path) -> None:
    refused(doctor.check_checkpoint(tmp_path / "none"), "no folder", "--checkpoint")
    (tmp_path / "config.json").write_text("{")
    refused(doctor.check_checkpoint(tmp_path), "", "--checkpoint")


def test_damaged_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    document: dict[str, Any] = {**contract.document(), "qos": {}}
    monkeypatch.setattr(contract, "document", lambda: document)
    refused(doctor.check_contract(), "unknown QoS", "contract.yaml")
    monkeypatch.setattr(contract, "camera", lambda: document["no such key"])
    refused(doctor.check_contract(), "no such key", "contract.yaml")


def test_the_graph_is_not_started_on_a_broken_machine(tmp_path: Path) -> None:
    seen: list[doctor.Check] = []
    checks = doctor.run_checks(tmp_path / "none", tmp_path, on_check=seen.append)
    assert checks == seen
    assert [check.name for check in checks][-2:] == ["checkpoint", "control rate"]
    refused(checks[-1], "not measured", "mend that first")
