"""A worse candidate is refused, a better one promoted, reloaded and rolled back, under a running graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from grape_policy.vla.checkpoint import load_checkpoint
from vla_factory import tiny_checkpoint

pytest.importorskip("grape_msgs.msg", exc_type=ImportError)

from grape_training.collect import RolloutPlan
from grape_training.errors import UserError
from grape_training.evaluation import CellResult
from grape_training.gate import decide
from grape_training.loop import recorded_version
from grape_training.loop_graph import LoopGraph, loop_graph
from grape_training.lora import adapter_parameters, attach, save_adapter
from grape_training.promotion import register_folder
from grape_training.registry import Registry
from grape_training.tpo_options import LoraOptions

pytestmark = [pytest.mark.ros, pytest.mark.slow]
STATE = "stack_cube/eval/0000"


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    root = tmp_path_factory.mktemp("promotion")
    tiny_checkpoint(root / "base")
    books = Registry(root / "registry")
    for name, size in (("one", 0.01), ("other", 0.02)):
        adapted = attach(load_checkpoint(root / "base").model, LoraOptions(4, 4), root / "base", 0)
        for parameter in adapter_parameters(adapted).values():
            parameter.data.add_(size)
        save_adapter(adapted, root / name)
        register_folder(books, root / name)
    return books


@pytest.fixture(scope="module")
def graph(books: Registry, ros_environment: dict[str, str]) -> Iterator[LoopGraph]:
    with loop_graph(books.folder(str(books.current)), books.root.parent / "run") as graph:
        yield graph


def cells(successes: int) -> list[CellResult]:
    return [CellResult(f"stack_cube/eval/{k:04d}", k < successes, True, 0, 10) for k in range(40)]


def version_that_acts(graph: LoopGraph) -> str:
    """Run an episode and return the policy version in its manifest; again if the busy machine stopped it."""
    for _ in range(3):
        episode = graph.run_episode(STATE, max_steps=3)
        if episode.outcome != "aborted":
            break
    return recorded_version(episode.path)


def test_refused_promoted_reloaded_and_rolled_back(books: Registry, graph: LoopGraph) -> None:
    base = str(books.current)
    worse, better = (version for version in books.versions() if version != base)
    assert version_that_acts(graph) == base

    refusal = decide(worse, base, cells(0), cells(20))
    assert not refusal.promote
    assert books.current == base

    approval = decide(better, base, cells(32), cells(20))
    books.promote(better, approval)
    with graph.suspended():
        assert books.current == better
    assert graph.load_policy(books.folder(better)) == better
    assert version_that_acts(graph) == better

    assert books.rollback() == base
    assert graph.load_policy(books.folder(base)) == base
    assert version_that_acts(graph) == base


def test_collect_resumes_through_the_graph(books: Registry, graph: LoopGraph) -> None:
    once = graph.collect(RolloutPlan((STATE,), 1, max_steps=2), progress=False)
    more = graph.collect(RolloutPlan((STATE,), 2, max_steps=2), progress=False)
    assert once.episodes == 1
    assert more.episodes == 2
    assert once.episode_ids[0] in more.episode_ids


def test_a_missing_folder_leaves_the_running_policy(
    books: Registry, graph: LoopGraph, tmp_path: Path
) -> None:

    with pytest.raises(UserError, match="refused"):
        graph.load_policy(tmp_path / "nothing")
