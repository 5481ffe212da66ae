"""Collect rollouts of a policy: in worker processes without ROS, or through the running ROS graph.

Both write the same episode format, one folder per episode, listed in ``catalogue.sqlite``; both resume by
skipping the (initial state, seed) pairs that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from grape_episodes.catalogue import Catalogue, Entry
from grape_policy.collection.rollouts import Rollout, find_completed, plan, rollout_seed
from numpy.typing import NDArray
from tqdm import tqdm

from grape_training.cells import IN_DOMAIN
from grape_training.evaluation import DEFAULT_MAX_STEPS
from grape_training.exploration import Lift
from grape_training.policies import PolicySpec, VlaActor, load_vla
from grape_training.pool import run_parallel, termination_deferred

if TYPE_CHECKING:
    from grape_episodes.types import Episode
    from grape_sim.environment import Observation, SimEnvironment

CATALOGUE = "catalogue.sqlite"
REST_STEPS = 2  # of 0.2 s, between the last action and the last picture


@dataclass(frozen=True)
class RolloutPlan:
    """Which rollouts to collect: ``rollouts`` per initial state of ``suite``, sampled at ``temperature``.

    lift: they go up for 1 to this many actions after the grasp, see ``exploration``; 0: never.
    """

    states: tuple[str, ...]
    rollouts: int = 5
    temperature: float = 0.7
    seed: int = 0
    max_steps: int = DEFAULT_MAX_STEPS
    suite: str = IN_DOMAIN
    lift: int = 0

    @property
    def cells(self) -> list[Rollout]:
        """All rollouts, those of one state after another, with the seeds that the episode manager uses.

        With ``lift`` the seeds are others, so that no such rollout is taken for one without.
        """
        from grape_sim.suite import load_suite

        suite = load_suite(self.suite)
        tasks = [suite.sample(state).task.name for state in self.states]
        seed = rollout_seed(self.seed, "lift", self.lift) if self.lift else self.seed
        return plan(tasks, self.states, self.rollouts, seed)


@dataclass(frozen=True)
class Collected:
    """What a collection gave; ``episodes`` counts those that were there before as well."""

    root: Path
    episodes: int
    successes: int
    new: int


def completed(root: Path, wanted: RolloutPlan, policy_version: str) -> dict[Rollout, Entry]:
    """Return the rollouts of ``wanted`` that have a usable episode of this policy version in ``root``."""
    catalogue = Catalogue(root / CATALOGUE)
    catalogue.rebuild(root)
    entries = catalogue.episodes(policy_version=policy_version)
    return find_completed(wanted.cells, entries, policy_version, wanted.temperature)


def collect_in_simulation(
    source: str, wanted: RolloutPlan, root: Path, *, workers: int = 2, progress: bool = True
) -> Collected:
    """Run the policy ``source`` in :class:`SimEnvironment` and write its episodes below ``root``.

    Raises:
        BadInputError: no such policy.
    """
    version = load_vla(source).version
    done = completed(root, wanted, version)
    cells = [cell for cell in wanted.cells if cell not in done]
    spec = PolicySpec(source, wanted.temperature)
    function = partial(
        record_rollout,
        spec=spec,
        root=root,
        max_steps=wanted.max_steps,
        suite=wanted.suite,
        lift=wanted.lift,
    )
    total, successes = len(wanted.cells), sum(entry.success for entry in done.values())
    bar = tqdm(total=total, initial=len(done), desc="rollouts", unit="ep", disable=not progress)
    with bar, closing(run_parallel(function, cells, workers)) as results:
        for _cell, success in results:
            successes += success
            bar.set_postfix(successes=successes)
            bar.update()
    completed(root, wanted, version)  # lists the new ones
    return Collected(root, total, successes, len(cells))


@lru_cache(maxsize=1)
def _environment(suite: str) -> SimEnvironment:
    from grape_sim.environment import SimEnvironment

    return SimEnvironment(suite=suite, depth=True)


def record_rollout(
    cell: Rollout, *, spec: PolicySpec, root: Path, max_steps: int, suite: str = IN_DOMAIN, lift: int = 0
) -> bool:
    """Run and write one episode; return whether it succeeded."""
    from grape_episodes.writer import write_episode
    from grape_policy.arm.safety import ActionRefused

    policy, environment = load_vla(spec.source), _environment(suite)
    observations = [environment.reset(cell.initial_state_id)]
    exploration = Lift(policy, lift, cell.seed) if lift else None
    actor = VlaActor(policy, environment.instruction, spec.temperature, cell.seed, exploration)
    manifest = _start(environment, policy.version, spec.temperature, cell.seed)
    refused = ""
    while len(actor.batches) < max_steps and not (environment.success_now or refused):
        action = actor.act(observations[-1])
        try:
            observations.append(environment.step(action))
        except ActionRefused as error:  # here the arm would have stopped; the refused action never ran
            actor.batches.pop()
            refused = str(error)
    verdict = environment.judge()
    if not refused:
        observations[-1] = _at_rest(environment, actor.batches[-1].actions[0])
    outcome = "success" if verdict.success else "failure"
    done = replace(
        manifest,
        outcome="stopped" if refused else outcome,
        success=bool(verdict.success),
        grasped=bool(verdict.grasped),
        collisions=int(verdict.collisions),
        reason=refused or verdict.message,
    )
    with termination_deferred():
        write_episode(root, _episode(done, observations, actor))
    return bool(verdict.success)


def _at_rest(environment: SimEnvironment, last: NDArray[np.float64]) -> Observation:
    """Hold still after the ``last`` action (7,) until it is carried out; return what is seen then.

    An episode ends at the moment of success, when the gripper has hardly begun to open. On a robot, too,
    cameras go on after the last action: what the judge needs to see is how things are left.
    """
    hold = np.array([0.0] * 6 + [last[6]])
    for _ in range(REST_STEPS):
        environment.act(hold)
    return environment.observe()


def _start(environment: SimEnvironment, version: str, temperature: float, seed: int) -> Any:
    from grape_episodes.manifest import new_episode_id, start_manifest

    return start_manifest(
        episode_id=new_episode_id(environment.initial_state_id),
        task=environment.task.name,
        instruction=environment.instruction,
        initial_state_id=environment.initial_state_id,
        policy_version=version,
        temperature=temperature,
        seed=seed,
        source="env",
    )


def _episode(manifest: Any, observations: Sequence[Observation], actor: VlaActor) -> Episode:
    """Return the episode's arrays: image t is the one action t was computed from."""
    from grape_episodes import contract
    from grape_episodes.types import Episode
    from grape_policy.arm.description import load_description

    batches = actor.batches
    return Episode(
        manifest=manifest,
        images=np.stack([o.image for o in observations]),
        depths=np.stack([o.depth for o in observations if o.depth is not None]),
        stamps_ns=np.array([o.stamp_ns for o in observations], np.int64),
        actions=np.concatenate([b.actions for b in batches]),
        token_ids=np.concatenate([b.token_ids for b in batches]),
        log_probabilities=np.concatenate([b.log_probabilities for b in batches]),
        policy_versions=(manifest.policy_version,) * len(batches),
        joint_names=load_description("wx250s").joint_state_names,
        joint_positions=np.stack([o.joint_positions for o in observations]),
        end_effector_positions=np.stack([o.end_effector_position for o in observations]),
        end_effector_quaternions=np.stack([o.end_effector_quaternion for o in observations]),
        camera=contract.camera(),
    )
