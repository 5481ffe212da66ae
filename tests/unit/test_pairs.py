"""Which episodes are paired, and the table they are written to."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from grape_preference.pairs import load_pairs, make_pairs, save_pairs
from grape_preference.scoring import Score
from preference_factory import make_score

GROUP = [
    make_score(name, -0.3, r_ext, False)
    for name, r_ext in zip("abcde", (0.1, 0.9, 0.5, 0.7, 0.3), strict=True)
]
OTHER = {"task": "stack_cube", "initial_state_id": "stack_cube/train/0001"}


def names(pairs) -> list[tuple[str, str]]:
    return [(pair.chosen, pair.rejected) for pair in pairs]


def test_best_and_worst() -> None:
    (pair,) = make_pairs(GROUP, "paper-code")
    assert (pair.chosen, pair.rejected) == ("b", "a")
    assert pair.margin == pytest.approx(0.8)
    assert (pair.chosen_r_ext, pair.rejected_r_ext) == (0.9, 0.1)
    assert (pair.chosen_sha256, pair.rejected_sha256) == ("sha-b", "sha-a")


def test_top_by_bottom() -> None:
    pairs = make_pairs(GROUP, "paper-code", top=2, balance=False)
    assert names(pairs) == [("b", "a"), ("b", "e"), ("d", "a"), ("d", "e")]
    assert names(make_pairs(GROUP, "paper-code", top=99, balance=False)) == names(pairs)  # never both sides


def test_a_failed_greedy_rollout_is_rejected_first() -> None:
    def of(greedy: str, *won: str) -> list[Score]:
        return [
            replace(s, temperature=0.7 * (s.episode_id != greedy), i_success=float(s.episode_id in won))
            for s in GROUP
        ]

    make = partial(make_pairs, preset="paper-code", reject_greedy=True)
    assert names(make(of("d", "b"))) == [("b", "d")], "though a and e have smaller rewards"
    assert names(make(of("d", "b"), top=2)) == [("b", "a"), ("b", "d"), ("c", "a")], "d is better than c"
    assert names(make(of("d", "d"))) == [("d", "a")], "the greedy one succeeded"
    assert names(make(of("d"))) == [("b", "d")], "none succeeded, and b has the larger reward"
    assert names(make(of("b"))) == [], "none succeeded: the largest reward does not make it the chosen one"
    assert names(make(GROUP)) == [("b", "a")], "scores that do not know their temperature"
    assert names(make_pairs(of("d", "b"), "paper-code")) == [("b", "a")]


def test_successes_are_paired_among_themselves_when_asked_for() -> None:
    won = [replace(s, i_success=float(s.episode_id in "bde")) for s in GROUP]
    assert names(make_pairs(won, "0,1,1")) == [("b", "a")]
    assert names(make_pairs(won, "0,1,1", among_successes=True)) == [("b", "a"), ("b", "e")]
    every = [replace(s, i_success=1.0) for s in GROUP]
    assert names(make_pairs(every, "0,1,1", among_successes=True)) == [("b", "a")], "no pair twice"
    assert names(make_pairs(GROUP, "paper-code", among_successes=True)) == [("b", "a")], "none succeeded"
    assert names(make_pairs(won[:2], "0,1,1", among_successes=True)) == [("b", "a")], "one success"


def test_margin_is_a_strict_threshold() -> None:
    assert len(make_pairs(GROUP, "paper-code", top=2, margin=0.5, balance=False)) == 3
    assert make_pairs(GROUP, "paper-code", margin=0.9) == []
    assert make_pairs([make_score(name, -0.3, 0.5, True) for name in "ab"]) == []  # equal: no preference


def test_episodes_without_a_score_are_left_out() -> None:
    best = make_score("z", -0.3, 1.0, True, verdict="truncated")
    assert names(make_pairs([*GROUP, best], "paper-code")) == [("b", "a")]
    assert make_pairs([GROUP[0], best]) == []


def test_balanced_over_tasks_keeps_the_clearest() -> None:
    others = [make_score(name, -0.3, r_ext, False, **OTHER) for name, r_ext in (("x", 0.2), ("y", 0.6))]
    pairs = make_pairs([*GROUP, *others], "paper-code", top=2)
    assert names(pairs) == [("b", "a"), ("y", "x")]
    assert len(make_pairs([*GROUP, *others], "paper-code", top=2, balance=False)) == 5
    assert len(make_pairs([*GROUP, *others], "paper-code", top=2, balance=False, max_per_task=3)) == 4


def test_one_episode_scored_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="two scores of one episode"):
        make_pairs([GROUP[0], GROUP[0]])
    with pytest.raises(ValueError, match="top must be at least 1"):
        make_pairs(GROUP, top=0)


def test_the_table_reads_back_and_is_reproducible(tmp_path: Path) -> None:
    pairs = make_pairs(GROUP, top=2)
    first = save_pairs(pairs, tmp_path / "one" / "pairs.parquet")
    second = save_pairs(make_pairs(GROUP[::-1], top=2), tmp_path / "two.parquet")
    assert load_pairs(first) == pairs
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["pairs.parquet"]  # nothing half-written
    assert load_pairs(save_pairs([], tmp_path / "none.parquet")) == []


def test_another_table_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"chosen": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="not a table of pairs"):
        load_pairs(tmp_path / "other.parquet")


def at(name: str, state: int, r_ext: float, x: float, task: str = "carrot_on_plate", **changes):
    place = {"carrot": (x, 0.0, 0.01), "plate": (0.3, 0.2, 0.0)}
    fields = {"task": task, "initial_state_id": f"{task}/train/{state:04d}", "start": place, **changes}
    return make_score(name, -0.3, r_ext, False, **fields)


NEAR = [at("a", 1, 0.9, 0.30), at("b", 2, 0.2, 0.31), at("c", 3, 0.1, 0.50)]


def test_other_initial_states_are_never_paired_unless_asked_for() -> None:
    assert make_pairs(NEAR) == []
    (pair,) = make_pairs(NEAR, "paper-code", fallback_distance=0.02)
    assert (pair.chosen, pair.rejected) == ("a", "b")
    assert pair.initial_state_id == "carrot_on_plate/train/0001"
    assert pair.rejected_initial_state_id == "carrot_on_plate/train/0002"
    assert pair.initial_state_distance == pytest.approx(0.01)
    assert make_pairs(NEAR, fallback_distance=0.005) == []


def test_the_fallback_joins_the_nearest_of_one_task_and_leaves_paired_states_alone() -> None:
    paired = [at("d", 4, 0.9, 0.302), at("e", 4, 0.1, 0.302)]
    strange = [at("f", 5, 0.5, 0.305, task="carrot_on_towel"), at("g", 6, 0.4, 0.30, start={})]
    pairs = make_pairs([*NEAR, *paired, *strange], "paper-code", balance=False, fallback_distance=1.0)
    assert names(pairs) == [("a", "b"), ("d", "e")]
    assert [pair.initial_state_distance for pair in pairs] == pytest.approx([0.01, 0.0])


def test_the_table_says_how_it_was_made_and_old_tables_are_read(tmp_path: Path) -> None:
    pairs = make_pairs(GROUP)
    path = save_pairs(pairs, tmp_path / "pairs.parquet", {"preset": "balanced", "top": 1})
    table = pq.read_table(path)
    assert table.schema.metadata[b"grape"] == b'{"preset": "balanced", "top": 1}'
    old = table.drop_columns(["rejected_initial_state_id", "initial_state_distance"])
    pq.write_table(old, tmp_path / "old.parquet")
    assert load_pairs(tmp_path / "old.parquet") == pairs
