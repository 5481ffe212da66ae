"""Measure keypoints, scores and judge on good, noisy, failed and the policy's rollouts, against the truth.

    python benchmarks/scoring.py [--states 8] [--policy-states 12] [--rollouts runs/bench/rollouts]

The same figures as ``grape bench keypoints | judge | scoring`` over the in-domain tasks, in one go.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from grape_training.bench_judge import measure_judge
from grape_training.bench_keypoints import measure_keypoints
from grape_training.bench_rollouts import in_domain, load, make
from grape_training.bench_scoring import measure_scoring

ROLLOUTS_PER_STATE = 5
SIZES = (100, 316, 1000)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--states", type=int, default=8, help="states per task for the scripted behaviours")
    parser.add_argument("--policy-states", type=int, default=12, help="states per task for the policy")
    parser.add_argument("--policy", default="checkpoints/grape-small")
    parser.add_argument("--rollouts", type=Path, default=Path("runs/bench/rollouts"))
    options = parser.parse_args()
    wanted = in_domain(options.states, options.policy_states, ROLLOUTS_PER_STATE)
    make(options.rollouts, wanted, options.policy)
    result = {
        "keypoints": measure_keypoints(load(options.rollouts, wanted)),
        "judge": measure_judge(load(options.rollouts, wanted)),
        "scoring": measure_scoring(options.rollouts, wanted, SIZES),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
