"""Make the ROS 2 wheels usable by CMake and by a bare interpreter; idempotent, standard library only.

The wheels' exported CMake targets name the Python of the image they were built in; this rewrites those paths
to the running interpreter's.  It also adds a ``.pth`` file that puts the environment on AMENT_PREFIX_PATH, so
that nothing has to be sourced.  Run it with the virtual environment's Python after every ``pip install``.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

PREFIX = Path(sys.prefix)
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TAG = VERSION.replace(".", "")
FOREIGN_PYTHON = "/opt/python/"
REPLACEMENTS = {
    f"{FOREIGN_PYTHON}cp{TAG}-cp{TAG}/include/python{VERSION}": sysconfig.get_paths()["include"],
    f"{FOREIGN_PYTHON}cp{TAG}-cp{TAG}/lib/python{VERSION}": str(PREFIX / "lib" / f"python{VERSION}"),
}
# One line, because `site` executes only lines that start with "import".
ENVIRONMENT_PTH = (
    "import os, sys; p = [x for x in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if x]; "
    "p = p if sys.prefix in p else [*p, sys.prefix]; "
    "os.environ.__setitem__('AMENT_PREFIX_PATH', os.pathsep.join(p))\n"
)


def fix_cmake_files(share: Path) -> tuple[int, list[Path]]:
    """Rewrite the foreign paths below ``share``; return how many changed and which are still foreign."""
    changed, foreign = 0, []
    for path in share.rglob("*.cmake"):
        old = path.read_text(errors="surrogateescape")
        new = old
        for before, after in REPLACEMENTS.items():
            new = new.replace(before, after)
        if new != old:
            path.write_text(new, errors="surrogateescape")
            changed += 1
        if FOREIGN_PYTHON in new:
            foreign.append(path)
    return changed, foreign


def main() -> int:
    """Fix this environment; exit code 1 when a file still names a foreign Python."""
    if sys.prefix == sys.base_prefix:
        print("Run this with the virtual environment's Python: .venv/bin/python scripts/fix_ros_wheels.py")
        return 2
    changed, foreign = fix_cmake_files(PREFIX / "share")
    pth = Path(sysconfig.get_paths()["purelib"]) / "zz_ros_env.pth"
    if not pth.exists() or pth.read_text() != ENVIRONMENT_PTH:
        pth.write_text(ENVIRONMENT_PTH)
    print(f"ROS wheels: {changed} CMake file(s) fixed")
    for path in foreign:
        print(f"still names a foreign Python: {path} (is this Python {VERSION} the one the wheels are for?)")
    return 1 if foreign else 0


if __name__ == "__main__":
    sys.exit(main())
