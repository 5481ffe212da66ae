"""The scripted expert's success in every cell of the shipped suites; the same command goes on where it ended.

    python benchmarks/expert_success.py [--suites obstacle,efficiency] [--states 200] [--workers 2]

Every episode is a line of a result file in the output folder, as of ``grape eval``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from grape_sim.suite import SHIPPED
from grape_training.comparison import summarise
from grape_training.evaluation import evaluate
from grape_training.policies import PolicySpec
from grape_training.suites import load_suite


def measure(suite: str, states: int, workers: int, output: Path) -> dict[str, Any]:
    """Run what is missing; return the summary of each cell, episodes judged as in ``grape eval``."""
    loaded = load_suite(suite)
    results = evaluate(
        {"expert": PolicySpec("expert")},
        loaded.state_ids("eval", states),
        output / loaded.name,
        suite=suite,
        workers=workers,
        max_steps=loaded.max_steps,
    )
    cells: dict[str, Any] = summarise(results["expert"])["tasks"]
    return cells


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suites", default=",".join(SHIPPED), help="shipped suites or suite files")
    parser.add_argument("--states", type=int, default=200, help="eval initial states for each cell")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--output", type=Path, default=Path("runs/expert"), help="folder of the results")
    arguments = parser.parse_args()
    for suite in arguments.suites.split(","):
        found = measure(suite, arguments.states, arguments.workers, arguments.output)
        for cell, row in found.items():
            share, hits = row["success"], row["collided"]
            print(
                f"{cell:34s}{share['count']:4d} of {share['total']} "
                f"({100 * share['low']:.0f}-{100 * share['high']:.0f} %)  "
                f"with a collision {hits['count']}  steps {row['steps']:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
