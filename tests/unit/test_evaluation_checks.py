"""The checks against fooling: what is sound passes, what is not is found; no policy sees privileged state."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from grape_sim.environment import SimEnvironment
from grape_training import checks
from grape_training.cells import CellResult, shared_environment
from grape_training.checks import RunOptions, check_against_fooling, film_and_check_determinism, first_states
from grape_training.errors import UserError
from grape_training.evaluation import run_hash
from grape_training.policies import PolicySpec, start_actor
from vla_factory import tiny_checkpoint

STATES = ["carrot_on_plate/eval/0000", "stack_cube/eval/0000"]
RUN = RunOptions(workers=1, max_steps=3, progress=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_checkpoint(folder)
    return folder


def cells(*wins: bool, task: str = "stack_cube") -> list[CellResult]:
    return [CellResult(f"{task}/eval/{k:04d}", win, False, 0, 9) for k, win in enumerate(wins)]


def faked(monkeypatch, **found: list[CellResult]) -> None:
    """Let the baselines' and shuffled policies' episodes be ``found``, the rest failures."""
    monkeypatch.setattr(
        checks,
        "evaluate",
        lambda specs, states, *_, **__: {
            name: found.get(name, cells(*[False] * len(states))) for name in specs
        },
    )


def verdicts(own: list[CellResult]) -> dict[str, str]:
    states = [cell.initial_state_id for cell in own]
    policies = {"vla": PolicySpec("folder"), "expert": PolicySpec("expert")}
    found = check_against_fooling(policies, {"vla": own}, states, Path("unused"), RUN)
    assert found["states"] == len(states)
    return {finding["check"]: finding["verdict"] for finding in found["findings"]}


def test_a_policy_that_uses_its_inputs_passes(monkeypatch):
    faked(monkeypatch, expert=cells(*[True] * 20))
    assert verdicts(cells(*[True] * 12, *[False] * 8)) == dict.fromkeys(
        ("expert", "random", "zero", "instruction shuffled", "image shuffled"), "passed"
    )


def test_a_policy_that_ignores_the_instruction_is_found(monkeypatch):
    own = cells(*[True] * 12, *[False] * 8)
    faked(monkeypatch, expert=cells(*[True] * 20), vla_instruction_shuffled=own)
    assert verdicts(own)["instruction shuffled"] == "failed"
    assert verdicts(own)["image shuffled"] == "passed"


def test_a_policy_that_never_succeeds_leaves_it_open(monkeypatch):
    faked(monkeypatch, expert=cells(*[True] * 20))
    assert verdicts(cells(*[False] * 20))["image shuffled"] == "undecided"


def test_tasks_that_luck_solves_or_the_expert_cannot_are_found(monkeypatch):
    faked(monkeypatch, expert=cells(*[True] * 8, *[False] * 12), random=cells(*[True] * 4, *[False] * 16))
    found = verdicts(cells(*[True] * 20))
    assert (found["expert"], found["random"], found["zero"]) == ("failed", "failed", "passed")


def test_first_states_are_chosen_per_cell():
    states = [f"{cell}/eval/{k:04d}" for k in range(3) for cell in ("a", "b")]
    assert first_states(states, 2) == states[:4]


def test_repeated_episodes_must_give_the_same_bits(checkpoint):
    from grape_training.cells import Cell, run_cell

    spec = PolicySpec(str(checkpoint), temperature=1.0)
    result = run_cell(Cell("tiny", spec, STATES[0]), max_steps=3, seed=0)
    films = film_and_check_determinism({"tiny": spec}, {"tiny": [result]}, STATES[:1], RUN)
    assert films["tiny", STATES[0]].shape == (4, 180, 240, 3)
    other = replace(result, path_length=np.nextafter(result.path_length, 1.0))
    with pytest.raises(UserError, match="second time"):
        film_and_check_determinism({"tiny": spec}, {"tiny": [other]}, STATES[:1], RUN)


@pytest.mark.parametrize("shuffle", ["none", "instruction", "image"])
def test_a_policy_gets_the_image_and_the_words_and_nothing_else(checkpoint, shuffle):
    """The same action comes from an observation that has only an image; no way leads to the simulator."""
    environment = shared_environment()
    actor, observation = start_actor(PolicySpec(str(checkpoint), shuffle=shuffle), environment, STATES[0], 3)
    action = actor.act(observation)
    assert np.array_equal(action, actor.act(SimpleNamespace(image=observation.image)))
    other = SimpleNamespace(image=255 - observation.image)
    assert np.array_equal(action, actor.act(other)) == (shuffle == "image")
    assert not [thing for thing in reachable(actor) if isinstance(thing, SimEnvironment)]


@pytest.mark.parametrize("shuffle", ["none", "image"])
def test_a_policy_trained_on_mirrored_images_sees_such(checkpoint, shuffle):
    environment = shared_environment()
    plain, _ = start_actor(PolicySpec(str(checkpoint), shuffle=shuffle), environment, STATES[0], 3)
    spec = PolicySpec(str(checkpoint), shuffle=shuffle, mirrored=True)
    actor, observation = start_actor(spec, environment, STATES[0], 3)
    seen: list[np.ndarray] = []
    for each in (plain, actor):
        vla = getattr(each, "actor", each)
        vla.act_on = lambda image: seen.append(image) or np.zeros(7)
        each.act(observation)
    assert np.array_equal(seen[0], seen[1][:, ::-1])
    assert not np.array_equal(seen[0], seen[1])
    assert run_hash(spec, "in_domain", 50, 0) != run_hash(replace(spec, mirrored=False), "in_domain", 50, 0)


def reachable(root: object) -> list[object]:
    """Return everything that can be reached from ``root`` through attributes and containers."""
    found, waiting = {id(root): root}, [root]
    while waiting:
        for thing in gc.get_referents(waiting.pop()):
            if id(thing) not in found and not isinstance(thing, (type, type(gc))) and not callable(thing):
                found[id(thing)] = thing
                waiting.append(thing)
    return list(found.values())
