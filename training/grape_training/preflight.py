"""The doctor's quick checks before a long run: fail in the first seconds, with one line and its remedy."""

from __future__ import annotations

import os
from pathlib import Path

from grape_training.errors import UserError


def check_machine(checkpoint: Path, output: Path, *, ros: bool) -> None:
    """Check Python, contract, rendering, memory, disk and checkpoint, and ROS if the graph will run.

    Raises:
        UserError: the first check that fails.
    """
    from grape_policy import doctor

    checks = [doctor.check_python, doctor.check_contract, lambda: doctor.check_checkpoint(checkpoint)]
    checks += [lambda: doctor.check_disk(output), doctor.check_memory, doctor.check_rendering]
    if ros:
        checks.append(doctor.check_ros)
        if "ROS_DOMAIN_ID" in os.environ:  # else the run takes a free one
            checks.append(doctor.check_domain)
    for function in checks:
        check = function()
        if not check.ok:
            raise UserError(f"{check.name}: {check.detail}", check.remedy)
