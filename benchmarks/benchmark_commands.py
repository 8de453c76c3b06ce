"""The group `edge-agent benchmark`. Heavy imports are inside, so that `--help` is fast.

To add a command, import a function whose module is light and register it at the end of the file.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

Repeats = Annotated[int, typer.Option(min=1, help="Times that everything is measured.")]
Seed = Annotated[int, typer.Option(min=0, help="Of prompts and sampling.")]
Out = Annotated[Path, typer.Option(help="Directory of the JSON and the charts.", file_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Model = Annotated[str | None, typer.Option(help="Catalog name or path of a GGUF.")]

_OUT = Path("edge-agent-benchmarks")


@app.callback()
def benchmark() -> None:
    """Measure this machine: latency, engine, memory, training, interference."""


@app.command()
def latency(
    ctx: typer.Context,
    *,
    url: Annotated[
        str | None, typer.Option(help="Any OpenAI-compatible server, instead of our daemon.")
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Measure this server too, by turns; prints ratios."),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="cold, warm, conversation, overhead, routes, adapter; may be repeated."),
    ] = None,
    own: Annotated[
        bool, typer.Option("--own", help="Start a daemon for this, even where one runs.")
    ] = False,
    concurrency: Annotated[str, typer.Option(help="Requests at a time, each in turn.")] = (
        "1,2,4,8,16"
    ),
    prompt_words: Annotated[int, typer.Option(min=24, help="About one token each.")] = 128,
    output_tokens: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = 128,
    requests: Annotated[
        int, typer.Option(min=1, help="Of one repeat at one concurrency; at least two each.")
    ] = 8,
    repeats: Repeats = 3,
    model: Annotated[
        str | None, typer.Option(help="Model to ask for at --url; else what our daemon serves.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key for --url.")
    ] = None,
    seed: Seed = 0,
    out: Out = _OUT,
    as_json: AsJson = False,
) -> None:
    """Time to the first token, between tokens and to the end, and tokens per second.

    Against the running daemon, whose log is left alone; where none runs, against one started for
    this on temporary data, with every route, adapters, and decision and logging on their own.

    \b
    Example: edge-agent benchmark latency
    Example: edge-agent benchmark latency --own --versus http://127.0.0.1:8080 --part cold
    """
    from benchmarks.runtime.latency import Plan
    from benchmarks.runtime.latency_command import Options, run
    from benchmarks.runtime.session import Output

    root = ctx.obj
    settings = root.load({"model": model if url is None else None}).settings
    plan = Plan(
        concurrency=_numbers(concurrency, "--concurrency"),
        prompt_words=prompt_words,
        output_tokens=output_tokens,
        requests=requests,
        repeats=repeats,
    )
    run(
        Options(
            plan=plan,
            seed=seed,
            output=Output(out, as_json),
            url=url,
            versus=versus,
            model=model if url is not None else None,
            api_key=os.environ.get(api_key_env) if api_key_env else None,
            parts=tuple(part or ()),
            own=own,
        ),
        settings,
    )


def _numbers(text: str, option: str) -> tuple[int, ...]:
    """ "1,2,4" as numbers from 1."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{option} {text!r}: give numbers like 1,2,4")
    return numbers


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="JSON of the earlier run.", dir_okay=False)],
    after: Annotated[Path, typer.Argument(help="JSON of the later run.", dir_okay=False)],
    as_json: AsJson = False,
) -> None:
    """What changed between two runs, and whether it is more than their spread.

    \b
    Example: edge-agent benchmark compare before.json after.json
    """
    import json

    from rich.console import Console

    from benchmarks.runtime.compare import compare as compared
    from benchmarks.runtime.result import load
    from benchmarks.runtime.tables import print_comparison

    comparison = compared(load(before), load(after))
    if as_json:
        typer.echo(json.dumps(comparison.as_dict(), ensure_ascii=False))
    else:
        print_comparison(comparison, Console(highlight=False))
