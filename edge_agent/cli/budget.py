"""`edge-agent budget`: show, set, prices, accept-clock."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.cli.options import AsJson

if TYPE_CHECKING:
    from edge_agent.budget.ledger import Ledger
    from edge_agent.budget.limits import LimitState
    from edge_agent.cloud.prices import KnownPrice

app = typer.Typer(no_args_is_help=True, help="Show and change the limits of cloud assistance.")

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Whose budget.")]

_BAR_WIDTH = 12
_NOTICEABLE_S = 60


@app.command()
def show(ctx: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Show the limits and what is used of them.

    "reserved" is the worst case of calls that are still running.

    \b
    Example: edge-agent budget show --json | jq .calls_per_day
    """
    with _ledger(ctx, data_dir) as ledger:
        states, overrides, lag_s = ledger.state(), ledger.overrides(), ledger.clock_lag_s()
        window = ledger.limits().rate_window
    if as_json:
        typer.echo(
            json.dumps(
                {
                    name: dataclasses.asdict(state) | {"overridden": name in overrides}
                    for name, state in states.items()
                }
                | {"rate_window": window},
                indent=2,
            )
        )
        return
    _print_table(states, overrides, window)
    if lag_s > _NOTICEABLE_S:
        typer.echo(
            f"The clock stands {lag_s / 3600:.1f} h before the latest cloud call, so the budget "
            "counts days from that call on. If the clock is right now: edge-agent budget "
            "accept-clock",
            err=True,
        )


@app.command("set")
def set_(
    ctx: typer.Context,
    *,
    rate: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Share of the queries, 0 to 1.")
    ] = None,
    rate_window: Annotated[
        str | None, typer.Option(metavar="QUERIES", help="Queries over which --rate holds.")
    ] = None,
    calls_per_day: Annotated[str | None, typer.Option(metavar="CALLS")] = None,
    tokens_per_day: Annotated[str | None, typer.Option(metavar="TOKENS")] = None,
    usd_per_day: Annotated[str | None, typer.Option(metavar="USD")] = None,
    usd_per_month: Annotated[str | None, typer.Option(metavar="USD")] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Follow the configuration again; may be repeated."),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Set limits; "none" lifts one.

    They win over the configuration and hold at once, in running daemons too.

    \b
    Example: edge-agent budget set --calls-per-day 50 --usd-per-month 5 --rate none
    Example: edge-agent budget set --unset rate
    """
    given = {
        "rate": rate,
        "rate_window": rate_window,
        "calls_per_day": calls_per_day,
        "tokens_per_day": tokens_per_day,
        "usd_per_day": usd_per_day,
        "usd_per_month": usd_per_month,
    }
    changes = {name: _number(name, text) for name, text in given.items() if text is not None}
    names = tuple(name.replace("-", "_") for name in unset or ())
    if not changes and not names:
        raise typer.BadParameter("name at least one limit, or --unset NAME")
    with _ledger(ctx, data_dir) as ledger:
        ledger.set_limits(unset=names, **changes)
    show(ctx, as_json=as_json, data_dir=data_dir)


@app.command()
def accept_clock(ctx: typer.Context, data_dir: DataDir = None) -> None:
    """Believe the clock again after it was wrong.

    The budget never goes back in time by itself, so that a clock set back opens no day twice. If
    a cloud call was made while the clock stood in the future, only you can know that.

    \b
    Example: edge-agent budget accept-clock
    """
    with _ledger(ctx, data_dir) as ledger:
        ledger.accept_clock()
    typer.echo(f"Days are counted from {time.strftime('%Y-%m-%d %H:%M')} on")


@app.command()
def prices(ctx: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Show what cloud models cost, in USD per million tokens.

    Your own prices (cloud.prices) win. Those that ship hold for the vendor's own host; vendors
    change them, so compare the date. "6.25/10" written: kept for five minutes, and for longer.

    \b
    Example: edge-agent budget prices --json
    """
    from edge_agent.cloud.prices import known_price, known_prices

    cloud = ctx.obj.load({"data_dir": data_dir}).settings.cloud
    rows = known_prices(cloud)
    used = known_price(cloud, cloud.model) if cloud.model else None
    if as_json:
        listed = [
            {
                "model": row.model,
                **row.price.model_dump(),
                "host": row.host,
                "source": row.source,
                "as_of": row.as_of and row.as_of.isoformat(),
                "used": row == used,
            }
            for row in rows
        ]
        typer.echo(json.dumps(listed, indent=2))
        return
    _print_prices(rows, used)
    if cloud.model and used is None:
        typer.echo(
            f"The price of {cloud.model} at {cloud.url} is not known: money limits block it. "
            f"edge-agent config set cloud.prices.{cloud.model} '{{input = …, output = …}}'",
            err=True,
        )


def _ledger(ctx: typer.Context, data_dir: Path | None) -> "Ledger":
    from edge_agent.budget.ledger import Ledger

    settings = ctx.obj.load({"data_dir": data_dir}).settings
    return Ledger(settings.database, seed=settings.budget)


def _number(name: str, text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        option = "--" + name.replace("_", "-")
        raise typer.BadParameter(f"{option}: {text!r} is no number and not 'none'") from None


def _print_table(
    states: dict[str, "LimitState"], overrides: dict[str, float | None], window: int
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("limit", "", "used", "reserved", "of", "resets", "from"):
        right = title in ("used", "reserved", "of")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for name, state in states.items():
        limited = state.limit is not None
        table.add_row(
            f"per {window} queries" if name == "rate" else name.replace("_", " "),
            _bar(state),
            _amount(name, state.used),
            _amount(name, state.reserved),
            _amount(name, state.limit) if state.limit is not None else "no limit",
            _moment(state.resets_at) if limited and state.resets_at is not None else "",
            "set" if name in overrides else "config",
        )
    Console().print(table)


def _print_prices(rows: "Sequence[KnownPrice]", used: "KnownPrice | None") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    numbers = ("input", "cached", "written", "output")
    for title in ("model", *numbers, "at"):
        number = title in numbers
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        price = row.price
        writes = [usd for usd in (price.cache_write_5m, price.cache_write) if usd is not None]
        amounts = (price.input, price.cached_input, writes, price.output)
        table.add_row(
            row.model,
            *map(_usd, amounts),
            # Of the host what tells the vendor: a terminal has 80 columns.
            ".".join(row.host.split(".")[-2:]) if row.host else "config",
            style="bold" if row == used else None,
        )
    console = Console()
    console.print(table)
    read = max(row.as_of for row in rows if row.as_of)
    console.print(f"Those that ship are as of {read}; --json names the pages to compare with.")


def _usd(amount: float | list[float] | None) -> str:
    amounts = amount if isinstance(amount, list) else [] if amount is None else [amount]
    return "/".join(f"{usd:g}" for usd in amounts) or "–"


def _bar(state: "LimitState") -> Any:
    """Used, reserved and free as a bar; empty where there is no limit."""
    from rich.text import Text

    if state.limit is None:
        return Text("")
    whole = state.limit or 1
    used = _BAR_WIDTH if state.limit == 0 else round(_BAR_WIDTH * min(1, state.used / whole))
    reserved = min(_BAR_WIDTH - used, round(_BAR_WIDTH * state.reserved / whole))
    full = state.used + state.reserved >= state.limit
    bar = Text("█" * used, style="red" if full else "green")
    bar.append("▒" * reserved, style="yellow")
    return bar.append("░" * (_BAR_WIDTH - used - reserved), style="dim")


def _amount(name: str, value: float) -> str:
    return f"${value:,.4f}" if name.startswith("usd") else f"{value:,.0f}"


def _moment(at: float) -> str:
    return time.strftime("%d %b %H:%M", time.localtime(at))
