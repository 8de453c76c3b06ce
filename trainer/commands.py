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
    model: Annotated[str | None, typer.Option(help="Catalog name or path of a GGUF.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Train an adapter on the log, and promote it if it passes the gate.

    Runs at idle priority beside the daemon, which swaps a promoted adapter in by itself. Ctrl-C
    stops it; `--resume` goes on where it stopped. No cloud call is made: the answers it learns
    from are in the log.

    \b
    Example: edge-agent train --steps 50
    Example: edge-agent train --status --json
    """
    settings = ctx.obj.load({"data_dir": data_dir, "model": model, "train.steps": steps}).settings
    if status:
        _status(settings, as_json=as_json)
        return
    ended = _train(settings, resume=resume, as_json=as_json)
    verdict = ended.verdict
    word = "promoted" if verdict.promote else "rejected"
    if as_json:
        line = {"event": "end", "round": ended.number, "adapter": ended.version, "state": word}
        typer.echo(json.dumps({**line, "gate": verdict.as_dict()}))
    else:
        typer.echo(f"round {ended.number}: adapter {ended.version} {word}: {verdict.reason}")


def _train(settings: "Settings", *, resume: bool, as_json: bool) -> "Ended":
    import signal

    from edge_agent.training.idle import end_with_parent, lower_priority

    lower_priority()
    end_with_parent()
    signal.signal(signal.SIGTERM, _interrupt)
    until = _check(settings, resume=resume)
    # Torch and peft take seconds to import: only now is it known that they are needed.
    from trainer.display import display
    from trainer.round import Round
    from trainer.workbench import Workbench

    with display(as_json=as_json) as watcher, Workbench(settings) as bench:
        training = Round(bench, watcher, between=_yielding(settings))
        if resume:
            return training.resume()
        return training.start(until)


def _check(settings: "Settings", *, resume: bool) -> "Position":
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
    until = items.newest(settings.database)
    if not resume:
        corpus.require_enough(settings.database, settings.train, since=since, until=until)
    return until


def _yielding(settings: "Settings") -> Any:
    """Between micro-batches, live requests go first."""
    from edge_agent.training.activity import Activity

    activity = Activity.open(settings.data_dir / "activity")
    return lambda: activity.wait_while_busy(0.5)


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _status(settings: "Settings", *, as_json: bool) -> None:
    from edge_agent.training.journal import Journal

    journal = Journal(settings.database)
    rounds = journal.rounds()
    journal.close()
    if as_json:
        typer.echo(json.dumps({"rounds": rounds}, ensure_ascii=False))
        return
    if not rounds:
        typer.echo("no round yet; `edge-agent train` starts one")
    for row in rounds:
        adapter = row["adapter"] or row["parent"]
        typer.echo(
            f"round {row['id']}  {row['state']:<11}  {adapter:<6}  {row['items'] or 0} queries"
            f"  {row['reason'] or ''}"
        )
