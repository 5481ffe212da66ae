"""Stages of a long run: their results are on disk and are not made again for the same inputs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grape_training.files import hash_json, read_json, write_json


class Stages:
    """Results below ``folder``, one JSON file per stage, written when the stage is complete."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.say = say
        self.seconds: dict[str, float] = {}

    def run(
        self, name: str, inputs: dict[str, Any], function: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return ``function()``, or its result of an earlier run if that had the same ``inputs``."""
        path, key = self.folder / f"{name}.json", hash_json(inputs)
        saved = read_json(path, "Delete it to run the stage again") if path.exists() else {}
        if saved.get("inputs") == key:
            self.say(f"{name}: done before")
            self.seconds[name] = saved["seconds"]
            result: dict[str, Any] = saved["result"]
            return result
        self.say(f"{name} ...")
        started = time.monotonic()
        result = function()
        self.seconds[name] = round(time.monotonic() - started, 1)
        write_json(path, {"inputs": key, "result": result, "seconds": self.seconds[name]})
        self.say(f"{name}: {self.seconds[name]:.0f} s")
        return result


def keep_if_same_inputs(folder: Path, key: str) -> None:
    """Keep half-done work only if it was begun with the inputs of hash ``key``; else start it anew.

    For work that resumes by itself and refuses, rightly, to go on with other data or options.
    """
    marker = folder / "inputs.json"
    if folder.exists() and not (marker.exists() and read_json(marker, "Delete it")["inputs"] == key):
        shutil.rmtree(folder)
    write_json(marker, {"inputs": key})
