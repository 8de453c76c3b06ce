"""Benchmarks of parts alone, and the comparison. Heavy imports are inside."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.runtime.options import OUT, AsJson, Model, Out, Repeats, Seed, numbers


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
    from benchmarks.runtime.result import load
    from benchmarks.runtime.tables import print_comparison

    comparison = compared(load(before), load(after))
    if as_json:
        typer.echo(json.dumps(comparison.as_dict(), ensure_ascii=False))
    else:
        print_comparison(comparison, Console(highlight=False))
