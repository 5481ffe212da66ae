"""The collection of ``grape bench collection``: the real one, with the simulation node that can misbehave."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from grape_policy import stack
from grape_policy.collection.task_list import TaskList

from grape_training.collect_unattended import collect_through_graph
from grape_training.errors import UserError

FAULTY_SIM = "grape_sim.faulty_node"


def main() -> int:
    """Run the list in ``<output>/task_list.json`` with the policy; 0: every rollout is done or given up."""
    policy, output = Path(sys.argv[1]), Path(sys.argv[2])
    nodes = tuple(replace(n, module=FAULTY_SIM) if n.name == "sim" else n for n in stack.NODES)
    vars(stack)["NODES"] = nodes
    wanted = TaskList.model_validate_json((output / "task_list.json").read_text())
    try:
        found = collect_through_graph(wanted, output / "episodes", policy)
    except UserError as error:
        print(error, flush=True)
        return 1
    print(f"{found.done} done, {found.given_up} given up. {found.reason}", flush=True)
    return 1 if found.reason else 0


if __name__ == "__main__":
    raise SystemExit(main())
