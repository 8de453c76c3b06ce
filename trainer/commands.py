"""`edge-agent train`: one round, shown as it goes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edge_agent.config import Settings
    from edge_agent.training.journal import Position
    from trainer.round import Ended


def train(  # noqa: PLR0917
    ctx: typer.Context,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the last round.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show rounds; train nothing.")] = False,
    steps: Annotated[int | None, typer.Option(help="DA-GRPO steps of this round.")] = None,
    allow_cloud: Annotated[
        int, typer.Option(min=0, help="Buy at most this many missing references first.")
    ] = 0,
    model: Annotated[str | None, typer.Option(help="Catalog name or path of a GGUF.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Train an adapter on the log, and promote it if it passes the gate.

    Runs at idle priority beside the daemon, which swaps a promoted adapter in by itself. Ctrl-C
    stops it; `--resume` goes on where it stopped.

    The answers it learns from are in the log: no cloud call is made, unless `--allow-cloud`
    buys references for queries that have none, inside the budget. They stay in the log.

    \b
    Example: edge-agent train --steps 50
    Example: edge-agent train --allow-cloud 40
    Example: edge-agent train --status --json
    """
    settings = ctx.obj.load({"data_dir": data_dir, "model": model, "train.steps": steps}).settings
    if status:
        _status(settings, as_json=as_json)
        return
    if resume and allow_cloud:
        raise typer.BadParameter("--allow-cloud buys before a round begins, not for --resume")
    ended = _train(settings, resume=resume, allow_cloud=allow_cloud, as_json=as_json)
    verdict = ended.verdict
    word = "promoted" if verdict.promote else "rejected"
    if as_json:
        line = {"event": "end", "round": ended.number, "adapter": ended.version, "state": word}
        typer.echo(json.dumps({**line, "gate": verdict.as_dict()}))
    else:
        typer.echo(f"round {ended.number}: adapter {ended.version} {word}: {verdict.reason}")


def _train(settings: "Settings", *, resume: bool, allow_cloud: int, as_json: bool) -> "Ended":
    import signal

    from edge_agent.training.idle import end_with_parent, lower_priority

    lower_priority()
    end_with_parent()
    signal.signal(signal.SIGTERM, _interrupt)
    until = _prepare(settings, resume=resume, allow_cloud=allow_cloud, as_json=as_json)
    # Torch and peft take seconds to import: only now is it known that they are needed.
    from trainer.display import display
    from trainer.round import Round
    from trainer.workbench import Workbench

    with display(as_json=as_json) as watcher, Workbench(settings) as bench:
        training = Round(bench, watcher, between=_yielding(settings))
        if resume:
            return training.resume()
        return training.start(until)


def _prepare(settings: "Settings", *, resume: bool, allow_cloud: int, as_json: bool) -> "Position":
    """The end of the log. Raises what a look at it and at this machine can already refuse."""
    from contextlib import closing

    from edge_agent.training.background import missing
    from edge_agent.training.journal import Journal
    from trainer import corpus, items
    from trainer.errors import NotTrainable

    absent = missing()
    if absent is not None:
        raise NotTrainable(f"training needs the package {absent}: pip install 'edge-agent[train]'")
    with closing(Journal(settings.database)) as journal:
        journal.require_idle()
        since = journal.position_before(None)
    if allow_cloud:
        _buy(settings, allow_cloud, since=since, as_json=as_json)
    until = items.newest(settings.database)
    if not resume:
        corpus.require_enough(settings.database, settings.train, since=since, until=until)
    return until


def _buy(settings: "Settings", at_most: int, *, since: "Position", as_json: bool) -> None:
    import dataclasses

    from rich.console import Console
    from rich.progress import Progress

    from trainer.purchase import buy

    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress:
        task = progress.add_task("references", total=at_most)
        bought = buy(
            settings,
            at_most,
            since=since,
            told=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        line = {"event": "purchase", **dataclasses.asdict(bought)}
        typer.echo(json.dumps(line, ensure_ascii=False))
    else:
        typer.echo(str(bought))


def _yielding(settings: "Settings") -> Any:
    """Between micro-batches, live requests go first."""
    from edge_agent.training.activity import Activity

    activity = Activity.open(settings.data_dir / "activity")
    return lambda: activity.wait_while_busy(0.5)


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _status(settings: "Settings", *, as_json: bool) -> None:
    from edge_agent.training import report
    from edge_agent.training.moves import describe
    from models.command_options import indented

    found = report.report(settings.database, waiting_for=None)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    if not found["rounds"]:
        typer.echo("no round yet; `edge-agent train` starts one")
    for row in found["rounds"]:
        adapter = row["adapter"] or row["parent"]
        typer.echo(
            f"round {row['id']}  {row['state']:<11}  {adapter:<6}  {row['items'] or 0} queries"
        )
        for line in (row["reason"], *map(describe, row["shift"] or ())):
            if line:
                typer.echo(indented(line, 4))
    if found["running"]:
        typer.echo(report.line(report.summary(found)))
