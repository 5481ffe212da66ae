"""Draw a contact sheet of the four tasks, solved by the expert: ``python -m grape_sim.preview OUT.png``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from grape_sim.environment import SimEnvironment
from grape_sim.expert import expert_action
from grape_sim.initial_state import make_id
from grape_sim.tasks import TASKS

FRAMES = 5
MAX_STEPS = 40


def film(environment: SimEnvironment, initial_state_id: str) -> list[np.ndarray]:
    """Return the camera images (240, 320, 3) of one episode of the expert, until success."""
    images = [environment.reset(initial_state_id).image]
    while len(images) <= MAX_STEPS and not environment.success_now:
        images.append(environment.step(expert_action(environment)).image)
    return images


def contact_sheet(index: int = 3) -> np.ndarray:
    """Return one row of ``FRAMES`` square images (the policy's view) for each task, from start to success."""
    environment = SimEnvironment()
    rows = []
    for task in TASKS:
        images = film(environment, make_id(task, "eval", index))
        chosen = np.linspace(0, len(images) - 1, FRAMES).round().astype(int)
        side = (images[0].shape[1] - images[0].shape[0]) // 2
        rows.append(np.hstack([images[i][:, side:-side] for i in chosen]))
    environment.close()
    return np.vstack(rows)


def main() -> None:
    """Write the contact sheet to the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="PNG file to write")
    parser.add_argument("--index", type=int, default=3, help="number of the eval initial states shown")
    arguments = parser.parse_args()
    sheet = Image.fromarray(contact_sheet(arguments.index))
    sheet.save(arguments.output, optimize=True)
    print(
        f"{arguments.output}: {sheet.width} x {sheet.height}, {arguments.output.stat().st_size / 1000:.0f} kB"
    )


if __name__ == "__main__":
    main()
