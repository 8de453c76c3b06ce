"""Commands of the benchmarks. Heavy imports are inside, so that `edge-agent --help` is fast.

The group `edge-agent benchmark`.

To add a command, import its function from a light module and register it at the end of the file:
the function imports what is heavy when it runs, so that `--help` is fast.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.continual.command import continual
from benchmarks.runtime.commands import (
    compare,
    engine,
    interference,
    latency,
    log,
    memory,
    start,
    train,
)

Work = Literal["exercises", "home"]


def reference_cloud(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")] = 3344,
    accuracy: Annotated[
        float, typer.Option(min=0, max=1, help="Share of questions answered right.")
    ] = 0.95,
    latency_ms: Annotated[
        float, typer.Option(min=0, help="Median time to the first token; log-normal.")
    ] = 250,
    price_in: Annotated[
        float, typer.Option(min=0, help="Advertised USD per million input tokens.")
    ] = 0.15,
    price_out: Annotated[
        float, typer.Option(min=0, help="Advertised USD per million output tokens.")
    ] = 0.60,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RATE", help="Inject a fault; may be repeated."),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='JSON lines {"question", "answer"} to look up first.'),
    ] = None,
    style: Annotated[
        str, typer.Option(help='"bare": the answer alone; "sentence": in a sentence.')
    ] = "bare",
    seed: Annotated[int, typer.Option(help="Of mistakes, latency and faults.")] = 0,
    json_output: Annotated[
        bool, typer.Option("--json", help="First line of output as JSON.")
    ] = False,
) -> None:
    """Run a stand-in for a cloud LLM. It is no language model.

    It speaks OpenAI's API and answers questions of reasoning-gym's generators with a set accuracy,
    price, latency and faults (rate_limit, server_error, stall, slow, cut, malformed, wrong_type,
    redirect, huge, unauthorized, busy). GET /stats counts what reached it.

    Example: edge-agent reference-cloud --port 0 --accuracy 0.9 --fault rate_limit=0.1
    """
    from benchmarks.reference_cloud.serve import Options, serve

    serve(
        Options(
            host=host,
            port=port,
            accuracy=accuracy,
            latency_ms=latency_ms,
            price_in=price_in,
            price_out=price_out,
            faults=tuple(fault or ()),
            answers=answers,
            style=style,
            seed=seed,
            json_output=json_output,
        )
    )


def demo(
    ctx: typer.Context,
    *,
    minutes: Annotated[
        float, typer.Option(min=1, help="About how long it may take, on two cores.")
    ] = 15,
    seed: Annotated[int, typer.Option(min=0, help="Of the questions and of the cloud.")] = 0,
    out: Annotated[Path, typer.Option(help="Directory of the pictures.")] = Path("edge-agent-demo"),
    work: Annotated[
        Work, typer.Option(help="exercises: generated; home: voice commands of a smart home.")
    ] = "exercises",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the log and the adapters.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; the story goes to stderr.")
    ] = False,
) -> None:
    """See the small model learn its work, and when to ask: about fifteen minutes on two cores.

    It starts a daemon and a stand-in for a cloud on temporary data, asks questions as an app
    would, trains, hot-swaps, changes to other work, trains again, and measures on questions that
    training never saw. Ctrl-C ends everything it started.

    With --work home the app sends voice commands, English and then German, without label,
    reference or feedback; what it leaves in --out is kept, and an interrupted demo resumes there.

    \b
    Example: edge-agent demo
    Example: edge-agent demo --work home
    Example: edge-agent demo --minutes 5 --json > demo.json
    """
    if work == "home":
        from benchmarks.home import run as home

        options = home.Options(
            plan=home.plan_of(minutes),
            seeds=(seed,),
            model=ctx.obj.load().settings.model,
            out=out,
            as_json=json_output,
        )
        home.run(options)
        return
    from benchmarks.demo.run import Options, run

    run(
        Options(
            minutes=minutes,
            seed=seed,
            out=out,
            keep=keep,
            as_json=json_output,
            data_dir=ctx.obj.load().settings.data_dir,
        )
    )


app = typer.Typer(no_args_is_help=True)


@app.callback()
def benchmark() -> None:
    """Measure this machine: latency, engine, memory, training, interference; and the method."""


for command in (latency, engine, memory, train, interference, log, start, compare, continual):
    app.command()(command)
