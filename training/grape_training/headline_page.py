"""The page of a study: tables in Markdown from ``headline.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Relative to SFT, from arXiv 2411.19309 (the larger of its two versions' numbers).
PAPER = {
    "in_domain_gain": 0.5179,
    "unseen_gain": 0.6036,
    "collision_change": -0.4431,
    "steps_change": -0.1115,
}
TITLES = {
    "in_domain_gain": "success in-domain",
    "unseen_gain": "success, unseen subject, physical, semantic",
    "collision_change": "episodes with a collision, safety objective",
    "steps_change": "steps, efficiency objective",
    "steps_change_both_succeed": "steps where both succeed, efficiency objective",
}


def make_page(document: dict[str, Any], study: dict[str, Any], figures: Sequence[str], command: str) -> str:
    """Return the page; ``study``: its plan as plain data; ``figures``: paths from the page; ``command``."""
    parts = [
        "<!-- Generated from the raw results; do not edit. -->",
        f"# Results of the study `{document['study']}`",
        _about(document, command),
        "## Headline figures",
        _headline(document),
        *(f"![{_alt(path)}]({path})" for path in figures),
        "## Success by suite",
        _success(document, study),
        f"## {_title(study, study['claims']['candidate'])} against each baseline, in-domain",
        _baselines(document, study),
        "## Collisions, steps, path",
        _objectives(document, study),
        "## Rollouts, scores, training",
        _collections(document),
        _training(document, study),
        _gate(document, study),
        "## Hours",
        _hours(document),
        "## How to read it",
        "\n".join(f"- `{name}`: {text}." for name, text in document["definitions"].items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(document: dict[str, Any], command: str) -> str:
    machines = "; ".join(
        f"{m['cores']} cores of {m['processor']}, {m['memory_gb']:.0f} GB" for m in document["machines"]
    )
    episodes = sum(arm["episodes"] for suite in document["cells"].values() for arm in suite.values())
    lines = f"`{command}`: {episodes} evaluated episodes; {machines}; see the hours below."
    if not document["complete"]:
        lines += f"\n\n**Not complete: {len(document['missing'])} cells are missing.**"
    return lines


def _headline(document: dict[str, Any]) -> str:
    rows = []
    for name, title in TITLES.items():
        claim = document["claims"].get(name)
        if claim is None:
            continue
        seeds = (
            f"; with seeds {_span(claim['low_seeds'], claim['high_seeds'])}" if "low_seeds" in claim else ""
        )
        interval = _span(claim["low"], claim["high"]) + seeds
        values = f"{_number(name, claim['reference'])} to {_number(name, claim['candidate'])}"
        paper = f"{PAPER[name]:+.1%}" if name in PAPER else "-"
        rows.append([f"{title} (`{name}`)", values, f"**{claim['value']:+.1%}**", interval, paper])
    return _table(["relative to SFT", "from, to", "change", "95 %", "the paper's"], rows)


def _number(name: str, value: float) -> str:
    return f"{value:.1f}" if name.startswith("steps") else f"{value:.1%}"


def _success(document: dict[str, Any], study: dict[str, Any]) -> str:
    suites = [suite for suite, arms in document["cells"].items() if arms]
    rows = []
    for arm, about in study["arms"].items():
        cells = [document["cells"][suite].get(arm) for suite in suites]
        if any(cells):
            rows.append([about["title"], *(_rate(cell) for cell in cells)])
    episodes = [max(a["states"] for a in document["cells"][suite].values()) for suite in suites]
    heads = [f"{suite} ({count})" for suite, count in zip(suites, episodes, strict=True)]
    note = (
        "In brackets behind a suite: paired episodes of each seed. Behind a rate: 95 % interval, and the "
        "number of seeds if there are several. An arm that its gate refused has the policy of its incumbent, "
        "of the same seed."
    )
    return _table(["arm", *heads], rows) + "\n\n" + note


def _rate(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    success, seeds = cell["success"], len(cell["seeds"])
    several = f", {seeds} seeds" if seeds > 1 else ""
    return f"{success['value']:.1%} ({100 * success['low']:.0f}-{100 * success['high']:.0f}{several})"


def _baselines(document: dict[str, Any], study: dict[str, Any]) -> str:
    rows = []
    for arm, found in document["in_domain_vs"].items():
        if found is None:
            continue
        success = found["success"]
        seeds = _span(success["low_seeds"], success["high_seeds"])
        by_seed = ", ".join(_p(p) for p in success["p_by_seed"])
        interval = _span(success["low"], success["high"])
        rows.append(
            [
                _title(study, arm),
                f"{success['value']:+.1%}",
                interval,
                seeds,
                _p(success["p_two_sided"]),
                by_seed,
            ]
        )
    heads = ["baseline", "difference of success", "95 %", "95 % with seeds", "p, pooled", "p by seed"]
    return _table(heads, rows)


def _objectives(document: dict[str, Any], study: dict[str, Any]) -> str:
    claims = study["claims"]
    suites = [s for claim in (claims["collisions"], claims["steps"]) if claim for s in claim["suites"]]
    rows = []
    for suite in dict.fromkeys([*claims["in_domain"], *suites]):
        for arm, cell in document["cells"].get(suite, {}).items():
            rows.append([suite, _title(study, arm), *_measures(cell)])
    heads = ["suite", "arm", "success", "collided", "steps", "path, m", "jerk, m/s³"]
    return _table(heads, rows)


def _measures(cell: dict[str, Any]) -> list[str]:
    collided, steps = cell["collided"], cell["steps"]
    return [
        f"{cell['success']['value']:.1%}",
        f"{collided['value']:.1%} ({100 * collided['low']:.0f}-{100 * collided['high']:.0f})",
        f"{steps['value']:.1f} ({steps['low']:.1f}-{steps['high']:.1f})",
        f"{cell['path_length']['value']:.2f}",
        f"{cell['jerk']['value']:.1f}",
    ]


def _collections(document: dict[str, Any]) -> str:
    rows = [
        [name, str(it["episodes"]), f"{it['successes'] / it['episodes']:.1%}", f"{it['mean_steps']:.1f}"]
        for name, it in document["collections"].items()
    ]
    table = _table(["collection", "rollouts", "true success", "steps"], rows)
    rows = [
        [
            name,
            f"{it['judged']}",
            f"{it['judge_right'] / it['judged']:.1%}" if it["judged"] else "-",
            f"{it['pairs']} from {it['states_with_pairs']} states",
            f"{it['decisive_pairs']}",
            f"{it['truly_decisive_pairs']}",
        ]
        for name, it in document["data"].items()
    ]
    heads = ["data", "judged", "judge right", "pairs", "success over failure, judged", "in truth"]
    return f"{table}\n\n{_table(heads, rows)}"


def _training(document: dict[str, Any], study: dict[str, Any]) -> str:
    rows = []
    for name, it in document["training"].items():
        arm, _, seed = name.rpartition("-")
        values = [
            f"{it[key]:.3g}" if it[key] is not None else "-" for key in ("loss", "margin", "accuracy", "kl")
        ]
        rows.append(
            [_title(study, arm), seed, str(it["pairs"]), str(it["steps"]), *values, f"{it['wall'] / 60:.0f}"]
        )
    return _table(["arm", "seed", "terms", "steps", "loss", "margin", "accuracy", "KL", "minutes"], rows)


def _gate(document: dict[str, Any], study: dict[str, Any]) -> str:
    rows = []
    for name, it in document["gate"].items():
        arm, _, seed = name.rpartition("-")
        success, collided = it["success"], it["collisions"]
        changes = [f"{each['difference']:+.1%}" for each in (success, collided)]
        verdict = "promoted" if it["promote"] else "refused, the incumbent stays"
        rows.append(
            [_title(study, arm), seed, str(success["total"]), *changes, _p(success["p_greater"]), verdict]
        )
    return _table(["gate", "seed", "states", "success", "collided", "p, better", "verdict"], rows)


def _hours(document: dict[str, Any]) -> str:
    rows = [
        [kind, f"{clock['wall']:.2f}", f"{clock['processor']:.2f}"]
        for kind, clock in document["hours"].items()
    ]
    note = "Trainings run side by side, one a core: their wall hours add up to more than passed by."
    return _table(["stages", "wall hours", "processor hours"], rows) + "\n\n" + note


def _title(study: dict[str, Any], arm: str) -> str:
    title: str = study["arms"][arm]["title"]
    return title


def _span(low: float, high: float) -> str:
    return f"{100 * low:+.1f} to {100 * high:+.1f} %"


def _p(value: float) -> str:
    return f"{value:.1g}" if value < 0.001 else f"{value:.3f}"


def _alt(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".png").replace("_", " ").capitalize()


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] + ["--:"] * (len(heads) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
