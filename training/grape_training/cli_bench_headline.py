"""``grape bench headline``: the study of GRAPE against its baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grape_training.cli_common import JsonOption, WorkersOption, print_json

if TYPE_CHECKING:
    from grape_training.headline_run import StudyRun


def add_commands(bench: typer.Typer) -> None:
    """Add this module's command to the group ``grape bench``."""
    bench.command()(headline)


def headline(
    quick: Annotated[
        bool, typer.Option("--quick", help="The small study: its direction in a quarter of an hour.")
    ] = False,
    study: Annotated[Path | None, typer.Option(help="A study of your own, a YAML file.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; the same folder resumes. Default: runs/<study>.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder of raw results, table and figures. Default: results in the run's folder."),
    ] = None,
    only: Annotated[
        str, typer.Option(help="Only stages whose name matches, with what they need: 'evaluate/in_domain/*'.")
    ] = "*",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the stages with state and expected time; do nothing.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Run nothing: make table and figures from the raw results.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Make table and figures of what is there, if cells are missing.")
    ] = False,
    workers: WorkersOption = 2,
    json: JsonOption = False,
) -> None:
    """Run the study: collect, score, train, evaluate; GRAPE, its iterations and objectives, its baselines.

    It takes many hours, may be killed at any moment and goes on where it was. A stage is done again when
    something it depends on has changed. Raw results and table are written whenever it ends.
    """
    import grape_training.headline as made
    from grape_training.headline_plan import parse_study, shipped_study

    path = study or shipped_study("quick" if quick else "full")
    text = path.read_text(encoding="utf-8")
    plan = parse_study(text, str(path))
    folder = output or Path("runs") / plan.name
    results = results or folder / "results"
    if not rebuild:
        from grape_training.headline_raw import export
        from grape_training.headline_run import StudyRun
        from grape_training.headline_work import Work

        run = StudyRun(Work(plan, folder, workers, progress=not json))
        if dry_run:
            _show(run, only, json)
            return
        run.run(only)
        export(run, text, results / plan.name)
        left = [stage for stage in run.stages if stage.id not in run.results]
        if left and not partial:
            typer.echo(f"{len(left)} stages are left; --partial shows what there is", err=True)
            return
    _print(made.rebuild(results, plan.name, partial=partial), results / f"{plan.name}.md", json)


def _show(run: StudyRun, only: str, json: bool) -> None:
    """Print state and expected time of the stages."""
    from dataclasses import asdict

    found = run.progress(only)
    if json:
        print_json([{"id": each.stage.id, **asdict(each)} for each in found])
        return
    for each in found:
        expected = f"{each.seconds / 60:6.1f} min" if each.state != "done" else ""
        typer.echo(f"{each.state:8} {each.stage.id:44} {expected}".rstrip())
    left = sum(each.seconds for each in found)
    done = sum(each.state == "done" for each in found)
    typer.echo(f"{done} of {len(found)} stages done, about {left / 3600:.1f} hours left, one after another")


def _print(document: dict[str, Any], page: Path, json: bool) -> None:
    if json:
        print_json(document)
        return
    for name in ("in_domain_gain", "unseen_gain", "collision_change", "steps_change"):
        if document[name] is not None:
            typer.echo(f"{name}: {document[name]:+.1%}")
    for arm, p in document["p_in_domain_vs"].items():
        if p is not None:
            typer.echo(f"p in-domain against {arm}: {p:.2g}")
    typer.echo(f"table: {page}")
