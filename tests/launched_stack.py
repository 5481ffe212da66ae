"""A launch file of ours under launch_testing, with a tiny checkpoint on a domain of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import launch
import launch_testing.actions
from grape_policy.domain import reserved_domain
from launch.actions import IncludeLaunchDescription, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from vla_factory import tiny_checkpoint

LAUNCH_FOLDER = Path(__file__).parents[1] / "launch"


def launched_stack(name: str, root: Path, reach: float = 1.0, **arguments: str) -> Any:
    """Return the description that includes the launch file ``name``; all files go below ``root``."""
    tiny_checkpoint(root / "checkpoint", reach=reach)
    with reserved_domain() as domain_id:
        os.environ["ROS_DOMAIN_ID"] = str(domain_id)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    folders = {"checkpoint": str(root / "checkpoint"), "episodes_folder": str(root / "episodes")}
    return launch.LaunchDescription(
        [
            SetEnvironmentVariable("ROS_LOG_DIR", str(root / "logs")),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(LAUNCH_FOLDER / name)),
                launch_arguments={**folders, **arguments}.items(),
            ),
            launch_testing.actions.ReadyToTest(),
        ]
    )
