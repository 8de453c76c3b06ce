"""`edge-agent train`: one round, shown as it goes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edge_agent.config.settings import Settings
    from edge_agent.learning.journal import Position
    from trainer.round import Ended
    from trainer.workbench.progress import Watcher


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
    idle: Annotated[
        bool, typer.Option("--idle", help="Compute only when nothing else wants to.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Train an adapter on the log, and promote it if it passes the gate.

    Takes its fair share of the processor and lets the daemon's live requests go first; with
    `--idle` it takes only what nothing else wants, as the daemon's own rounds do. The daemon
    swaps a promoted adapter in by itself. Ctrl-C stops it; `--resume` goes on where it stopped.

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
    ended = _train(settings, resume=resume, allow_cloud=allow_cloud, idle=idle, as_json=as_json)
    verdict = ended.verdict
    word = "promoted" if verdict.promote else "rejected"
    if as_json:
        line = {"event": "end", "round": ended.number, "adapter": ended.version, "state": word}
        typer.echo(json.dumps({**line, "gate": verdict.as_dict()}))
    else:
        typer.echo(f"round {ended.number}: adapter {ended.version} {word}: {verdict.reason}")


def _train(
    settings: "Settings", *, resume: bool, allow_cloud: int, idle: bool, as_json: bool
) -> "Ended":
    import signal

    from edge_agent.processes.own import lower_priority

    if idle:
        lower_priority()
    signal.signal(signal.SIGTERM, _interrupt)
    require_packages()
    if allow_cloud:
        _buy(settings, allow_cloud, as_json=as_json)
    from trainer.report.display import display

    with display(as_json=as_json) as watcher:
        watcher.say("reading the log")
        until = _look(settings, watcher, resume=resume, as_json=as_json)
        watcher.say("loading torch")
        # Torch and peft take seconds to import: only now is it known that they are needed.
        from trainer.round import Round
        from trainer.workbench.memory import require_room
        from trainer.workbench.workbench import Workbench

        if not _on_gpu():
            require_room(settings)
        with Workbench(settings, told=watcher.say) as bench:
            training = Round(bench, watcher, between=_yielding(settings))
            return training.resume() if resume else training.start(until)


def _on_gpu() -> bool:
    """Whether the weights are learned on in a memory of their own."""
    import torch

    return torch.cuda.is_available()


def require_packages() -> None:
    """Raise NotTrainable if one that training needs is not installed; imports none of them."""
    from edge_agent.learning.background import missing
    from trainer.errors import NotTrainable

    absent = missing()
    if absent is not None:
        raise NotTrainable(f"training needs the package {absent}: pip install 'edge-agent[train]'")


def _look(settings: "Settings", watcher: "Watcher", *, resume: bool, as_json: bool) -> "Position":
    """Say what the round learns from and where it goes on; returns the end of the log.

    Raises what the log and the journal can already refuse.
    """
    from contextlib import closing

    from edge_agent.learning.journal import Journal
    from trainer.data import items
    from trainer.workbench.outlook import outlook, standing

    with closing(Journal(settings.database)) as journal:
        journal.require_idle()
        until = items.newest(settings.database)
        data = outlook(settings, journal, until=until, resume=resume)
        stands = standing(journal, planned=settings.train.steps) if resume else None
    for event, found in (("data", data), ("resume", stands)):
        if found is None:
            continue
        if as_json:
            _print_json({"event": event, **found.as_dict()})
        else:
            watcher.say(str(found))
    return until


def _print_json(line: dict[str, Any]) -> None:
    typer.echo(json.dumps(line, ensure_ascii=False))


def _buy(settings: "Settings", at_most: int, *, as_json: bool) -> None:
    import dataclasses
    from contextlib import closing

    from rich.console import Console
    from rich.progress import Progress

    from edge_agent.learning.journal import Journal
    from trainer.data.purchase import buy

    with closing(Journal(settings.database)) as journal:
        journal.require_idle()
        since = journal.position_before(None)
    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress:
        task = progress.add_task("references", total=at_most)
        bought = buy(
            settings,
            at_most,
            since=since,
            told=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        _print_json({"event": "purchase", **dataclasses.asdict(bought)})
    else:
        typer.echo(str(bought))


def _yielding(settings: "Settings") -> Any:
    """Between micro-batches, live requests go first."""
    from edge_agent.learning.machine import Activity

    activity = Activity.open(settings.data_dir / "activity")
    return lambda: activity.wait_while_busy(0.5)


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _status(settings: "Settings", *, as_json: bool) -> None:
    from edge_agent.learning import report
    from edge_agent.learning.shift import describe
    from models.cli.options import indented

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
