"""The benchmarks of the daemon, of its parts alone, and the comparison of two runs.

Heavy imports are inside, so that `--help` is fast.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.runtime.options import OUT, AsJson, Model, Out, Repeats, Seed, numbers


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
        typer.Option(
            help="cold, warm, conversation, overhead, routes, adapter, speculation, constrained; "
            "and busy, where it is named: one client beside other programs. May be repeated."
        ),
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
    out: Out = OUT,
    as_json: AsJson = False,
) -> None:
    """Time to the first token, between tokens and to the end, and tokens per second.

    Against the running daemon, whose log is left alone; where none runs, against one started for
    this on temporary data, with every route, adapters, and decision and logging on their own.

    \b
    Example: edge-agent benchmark latency
    Example: edge-agent benchmark latency --own --versus http://127.0.0.1:8080 --part cold
    Example: edge-agent benchmark latency --own --part busy
    """
    from benchmarks.runtime.latency import Plan
    from benchmarks.runtime.latency_command import Options, run
    from benchmarks.runtime.session import Output

    root = ctx.obj
    settings = root.load({"model": model if url is None else None}).settings
    plan = Plan(
        concurrency=numbers(concurrency, "--concurrency"),
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


def memory(
    ctx: typer.Context,
    *,
    model: Annotated[
        list[str] | None, typer.Option(help="Catalog name or path of a GGUF; may be repeated.")
    ] = None,
    contexts: Annotated[
        str | None,
        typer.Option(help="KV cells, in turn; unset: as configured, and a quarter."),
    ] = None,
    slots: Annotated[
        str | None, typer.Option(help="Slots, each in turn; unset: 1, and as configured.")
    ] = None,
    versus: Annotated[
        str | None, typer.Option(metavar="URL", help="A server on this machine to measure too.")
    ] = None,
    waves: Annotated[
        int,
        typer.Option(min=1, help="Times as many requests at once as slots; all prompts differ."),
    ] = 2,
    repeats: Repeats = 3,
    seed: Seed = 0,
    out: Out = OUT,
    as_json: AsJson = False,
) -> None:
    """Peak and steady memory of daemons of every size, and of the trainer.

    Shared and private pages apart. Each daemon is started for this, measured idle, and measured
    again after it has answered as many requests at a time as it has slots. More waves show what
    a server keeps of the prompts that it has answered.

    \b
    Example: edge-agent benchmark memory --contexts 2048,8192 --slots 1,16
    """
    from benchmarks.runtime.memory_command import Plan, run
    from benchmarks.runtime.session import Output

    settings = ctx.obj.load().settings
    usual = settings.engine
    plan = Plan(
        models=tuple(model or (settings.model,)),
        contexts=numbers(contexts, "--contexts")
        if contexts
        else (usual.context // 4, usual.context),
        slots=numbers(slots, "--slots") if slots else tuple(sorted({1, usual.slots})),
        waves=waves,
        repeats=repeats,
        versus=versus,
    )
    run(plan, settings, seed=seed, output=Output(out, as_json))


def start(
    ctx: typer.Context,
    *,
    model: Model = None,
    repeats: Repeats = 5,
    seed: Seed = 0,
    out: Out = OUT,
    as_json: AsJson = False,
) -> None:
    """How long the daemon takes until it answers, and the command line to show its help.

    \b
    Example: edge-agent benchmark start --repeats 3
    """
    from benchmarks.runtime.session import Output
    from benchmarks.runtime.start import Plan, run

    settings = ctx.obj.load({"model": model}).settings
    run(Plan(repeats=repeats), settings, seed=seed, output=Output(out, as_json))


def interference(
    ctx: typer.Context,
    *,
    concurrency: Annotated[str, typer.Option(help="Clients, each in turn.")] = "1,4",
    pause_ms: Annotated[float, typer.Option(min=0, help="Of a client after each answer.")] = 300,
    requests: Annotated[int, typer.Option(min=2, help="Of one window.")] = 40,
    model: Model = None,
    repeats: Repeats = 3,
    seed: Seed = 0,
    out: Out = OUT,
    as_json: AsJson = False,
) -> None:
    """Time to the first token and between tokens while the trainer runs, against the same alone.

    \b
    Example: edge-agent benchmark interference --concurrency 1
    """
    from benchmarks.runtime.interference import Plan, run
    from benchmarks.runtime.session import Output

    settings = ctx.obj.load({"model": model}).settings
    plan = Plan(
        concurrency=numbers(concurrency, "--concurrency"),
        pause_s=pause_ms / 1000,
        requests=requests,
        repeats=repeats,
    )
    run(plan, settings, seed=seed, output=Output(out, as_json))


def engine(
    ctx: typer.Context,
    *,
    model: Model = None,
    batches: Annotated[str, typer.Option(help="Sequences decoded together, each in turn.")] = (
        "1,2,4,8,16"
    ),
    repeats: Repeats = 5,
    seed: Seed = 0,
    out: Out = OUT,
    as_json: AsJson = False,
) -> None:
    """llama.cpp alone: pp512, tg128 and batched decoding for every quantization of the model.

    As llama-bench measures them, with the share of the memory-bandwidth limit, which is measured
    in the same run.

    \b
    Example: edge-agent benchmark engine --model smollm2-135m-instruct
    """
    from benchmarks.runtime.engine import Plan, run
    from benchmarks.runtime.session import Output

    settings = ctx.obj.load({"model": model}).settings
    plan = Plan(batches=numbers(batches, "--batches"), repeats=repeats)
    run(plan, settings, seed=seed, output=Output(out, as_json))


def train(
    ctx: typer.Context,
    *,
    versus: Annotated[
        list[str] | None,
        typer.Option(help="trl (its GRPOTrainer), naive (transformers and PEFT); may be repeated."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts in a DA-GRPO step.")] = 8,
    group: Annotated[int, typer.Option(min=2, help="Rollouts of each prompt.")] = 8,
    new_tokens: Annotated[int, typer.Option(min=1, help="Longest rollout.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each process that count.")] = 2,
    model: Model = None,
    repeats: Repeats = 3,
    seed: Seed = 0,
    out: Out = OUT,
    as_json: AsJson = False,
) -> None:
    """Seconds and tokens per second of each part of a DA-GRPO step, and of a supervised one.

    Each repeat is a process of its own; its first step warms up. Everyone has the same model,
    adapter, prompts, group and answer length.

    \b
    Example: edge-agent benchmark train --versus trl --versus naive
    """
    from benchmarks.runtime.session import Output
    from benchmarks.runtime.train import Plan, run

    settings = ctx.obj.load({"model": model}).settings
    plan = Plan(prompts=prompts, group=group, new_tokens=new_tokens, steps=steps, repeats=repeats)
    run(plan, settings, versus=tuple(versus or ()), seed=seed, output=Output(out, as_json))


def log(
    ctx: typer.Context,
    *,
    sizes: Annotated[str, typer.Option(help="Queries in the log, smallest first.")] = (
        "1000,1000000"
    ),
    repeats: Repeats = 3,
    seed: Seed = 0,
    out: Out = OUT,
    as_json: AsJson = False,
) -> None:
    """What a large log costs: one more query, and reading what a round trains on.

    A million queries take some 3 GB of disk while it runs.

    \b
    Example: edge-agent benchmark log --sizes 1000,100000
    """
    from benchmarks.runtime.log_size import Plan, run
    from benchmarks.runtime.session import Output

    plan = Plan(sizes=numbers(sizes, "--sizes"), repeats=repeats)
    run(plan, ctx.obj.load().settings, seed=seed, output=Output(out, as_json))


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
    from benchmarks.runtime.compare import print_comparison
    from benchmarks.runtime.result import load

    comparison = compared(load(before), load(after))
    if as_json:
        typer.echo(json.dumps(comparison.as_dict(), ensure_ascii=False))
    else:
        print_comparison(comparison, Console(highlight=False))
