"""`edge-agent benchmark continual`. Heavy imports are inside, so that `--help` is fast."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from benchmarks.continual.plan import Protocol

_DEFAULT = "full"
_HOME = "home"


def continual(
    ctx: typer.Context,
    *,
    config: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="home, full, small, small-studies, estimators, quick, paper-math-arc, "
            "paper-taco-mmlu, or a TOML file.",
        ),
    ] = _DEFAULT,
    quick: Annotated[
        bool, typer.Option("--quick", help="Every method once, in under 20 minutes on two cores.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many, from 0.")] = None,
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated; the others are left out.")
    ] = None,
    families: Annotated[
        str | None,
        typer.Option(help="Comma-separated, in the order of the phases; humaneval is another."),
    ] = None,
    studies: Annotated[
        str | None, typer.Option(help="Of main, budgets, schedule, duals, ablations.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Catalog name or path of a GGUF.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Runs, report, plots; default: benchmarks/results/continual-NAME."),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing; report what is done.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Does it learn, and does it keep to its budget? Every method on a sequence of work.

    Trains and measures DA-GRPO as published, ours, and the baselines on task families with
    switches: hours for everything, minutes with --quick. Interrupted, it goes on where it
    stopped when the same command is given again. Writes report.md, plots, summary.json, which is
    enough for --report-only, and one JSON for each phase of each run. Given again while it runs,
    in another terminal, it takes a share of the work: two processes of one thread each do more
    than one of two.

    With --config home a real daemon serves days of a smart home's commands, English and German,
    and learns from what it asked the cloud; only --seeds, --model and --out apply to it.

    \b
    Example: edge-agent benchmark continual --quick
    Example: edge-agent benchmark continual --config home --seeds 3
    Example: edge-agent benchmark continual --seeds 1 --studies main,ablations
    Example: edge-agent benchmark continual --config my.toml --out my-results --report-only
    """
    if config == _HOME:
        _home(ctx, seeds, model, out, report_only=report_only, as_json=as_json)
        return
    values = {
        "seeds": seeds,
        "methods": _names(methods),
        "families": _names(families),
        "studies": _names(studies),
        "model": model,
    }
    protocol = _protocol("quick" if quick else config, values)
    folder = out or Path("benchmarks/results") / f"continual-{protocol.name}"
    settings = ctx.obj.load().settings
    if not report_only:
        _run(protocol, folder, settings)
    _report(protocol, folder, as_json=as_json)


def _home(
    ctx: typer.Context,
    seeds: int | None,
    model: str | None,
    out: Path | None,
    *,
    report_only: bool,
    as_json: bool,
) -> None:
    from benchmarks.home.run import Options, run
    from benchmarks.home.study import Plan

    run(
        Options(
            plan=Plan(),
            seeds=tuple(range(seeds or 3)),
            model=model or ctx.obj.load().settings.model,
            out=out or Path("benchmarks/results/home"),
            report_only=report_only,
            as_json=as_json,
        )
    )


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


def _protocol(source: str, values: dict[str, Any]) -> "Protocol":
    from benchmarks.continual.plan import read, validated

    given = {key: value for key, value in values.items() if value is not None}
    return validated({**read(source).model_dump(), **given})


def _run(protocol: "Protocol", folder: Path, settings: Any) -> None:
    from trainer.commands import require_packages

    require_packages()
    from benchmarks.continual.progress import Bars
    from benchmarks.continual.records import Store
    from benchmarks.continual.run import Benchmark, workbench

    store = Store(folder)
    store.open(protocol)
    with workbench(settings, protocol) as bench, Bars() as bars:
        Benchmark(bench, protocol, store, bars).run()


def _report(protocol: "Protocol", folder: Path, *, as_json: bool) -> None:
    import json

    from benchmarks.continual import plots, report
    from benchmarks.continual.records import Store
    from benchmarks.continual.summary import summarise

    summary = summarise(Store.to_read(folder), protocol)
    pictures = plots.draw(summary, folder)
    path = report.write(summary, folder, pictures)
    if as_json:
        typer.echo(json.dumps(summary.as_dict(), ensure_ascii=False))
    else:
        report.print_table(summary)
        typer.echo(f"report: {path}")
