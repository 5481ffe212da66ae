"""The policies an evaluation can run: VLA checkpoints, the expert, and baselines that must not succeed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from grape_training.errors import BadInputError

if TYPE_CHECKING:
    from grape_policy.vla.inference import ActionBatch, VlaPolicy
    from grape_sim.environment import Observation, SimEnvironment

    from grape_training.exploration import Lift

SCRIPTED = ("expert", "random", "zero")
OTHER_STATE = 5001  # how far away the initial state lies whose image a shuffled policy gets
SHUFFLES = ("none", "instruction", "image")


@dataclass(frozen=True)
class PolicySpec:
    """How to build a policy in any process.

    ``source`` is a checkpoint folder, an adapter or registry version folder, or one of :data:`SCRIPTED`.
    ``shuffle`` gives the policy another task's instruction, or the first image of another initial state: a
    policy that understands its inputs fails then. ``mirrored``: it was trained on images mirrored left to
    right and is shown such, as OpenVLA's LIBERO checkpoints.
    """

    source: str
    temperature: float = 0.0
    shuffle: str = "none"
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.shuffle not in SHUFFLES:
            raise BadInputError(f"unknown shuffle {self.shuffle!r}", f"Use one of {', '.join(SHUFFLES)}")


class Actor(Protocol):
    """Chooses actions within one episode."""

    def act(self, observation: Observation) -> np.ndarray:
        """Return the action (7,) for ``observation``."""
        ...


def cell_seed(seed: int, initial_state_id: str) -> int:
    """Return the sampling seed of one episode, the same whatever worker runs it."""
    digest = hashlib.sha256(f"{seed} {initial_state_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


@lru_cache(maxsize=4)
def load_vla(source: str) -> VlaPolicy:
    """Load a checkpoint, or an adapter folder on top of the checkpoint it names; kept in memory per process.

    Raises:
        BadInputError: no such folder, or it is damaged.
    """
    from grape_policy.vla.errors import CheckpointError
    from grape_policy.vla.inference import VlaPolicy

    try:
        return VlaPolicy.from_checkpoint(Path(source))
    except CheckpointError as error:
        raise BadInputError(str(error), "Give a folder that `grape train` wrote") from error


class VlaActor:
    """A VLA within one episode; keeps every emitted token and log-probability."""

    def __init__(
        self, policy: VlaPolicy, instruction: str, temperature: float, seed: int, lift: Lift | None = None
    ) -> None:
        import torch

        self.policy = policy
        self.instruction = instruction
        self.temperature = temperature
        self.lift = lift
        self.generator = torch.Generator().manual_seed(seed)
        self.batches: list[ActionBatch] = []

    def act(self, observation: Observation) -> np.ndarray:
        """Return the sampled (or, at temperature 0, most likely) action."""
        return self.act_on(observation.image)

    def act_on(self, image: np.ndarray) -> np.ndarray:
        """Return the action for an RGB image (H, W, 3)."""
        forced = self.lift.forced() if self.lift else None
        batch = self.policy.act(
            image[None], [self.instruction], self.temperature, self.generator, forced=forced
        )
        self.batches.append(batch)
        action: np.ndarray = batch.actions[0]
        if self.lift:
            self.lift.ran(action)
        return action


class _OtherImageActor:
    """Shows a VLA not what the camera sees but one ``fixed`` image, or either mirrored left to right."""

    def __init__(self, actor: VlaActor, fixed: np.ndarray | None, mirrored: bool) -> None:
        self.actor, self.fixed, self.mirrored = actor, fixed, mirrored

    def act(self, observation: Observation) -> np.ndarray:
        image = observation.image if self.fixed is None else self.fixed
        return self.actor.act_on(np.ascontiguousarray(image[:, ::-1]) if self.mirrored else image)


class _ScriptedActor:
    """The expert, the zero action, or uniform actions of up to 3 cm and 0.1 rad per axis."""

    def __init__(self, kind: str, environment: SimEnvironment, seed: int) -> None:
        self.kind, self.environment = kind, environment
        self.rng = np.random.default_rng(seed)

    def act(self, observation: Observation) -> np.ndarray:
        if self.kind == "expert":
            from grape_sim.expert import expert_action

            return np.asarray(expert_action(self.environment), np.float64)
        if self.kind == "zero":
            return np.array([0, 0, 0, 0, 0, 0, 1.0])
        shift, turn = self.rng.uniform(-0.03, 0.03, 3), self.rng.uniform(-0.1, 0.1, 3)
        return np.concatenate([shift, turn, self.rng.random(1)])


def start_actor(
    spec: PolicySpec, environment: SimEnvironment, initial_state_id: str, seed: int
) -> tuple[Actor, Observation]:
    """Reset ``environment`` to the initial state; return the episode's policy and the first observation."""
    if spec.source in SCRIPTED:
        observation = environment.reset(initial_state_id)
        return _ScriptedActor(spec.source, environment, seed), observation
    other_image = environment.reset(_other_state(initial_state_id)).image if spec.shuffle == "image" else None
    observation = environment.reset(initial_state_id)
    instruction = environment.instruction
    if spec.shuffle == "instruction":
        instruction = environment.suite.sample(initial_state_id).other_instruction
    actor = VlaActor(load_vla(spec.source), instruction, spec.temperature, seed)
    if other_image is None and not spec.mirrored:
        return actor, observation
    return _OtherImageActor(actor, other_image, spec.mirrored), observation


def _other_state(initial_state_id: str) -> str:
    stem, index = initial_state_id.rsplit("/", 1)
    return f"{stem}/{int(index) + OTHER_STATE:04d}"
