"""`edge-agent benchmark latency`: which servers, which parts."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from benchmarks.runtime import busy, routes, servers, speculation
from benchmarks.runtime.energy import Meter
from benchmarks.runtime.http_load import Target
from benchmarks.runtime.latency import PREFIXES, LatencyRun, Plan
from benchmarks.runtime.routes import decision_and_logging
from benchmarks.runtime.session import Output, Session, session
from edge_agent.client.daemon import find_daemon
from edge_agent.config.settings import Settings
from edge_agent.errors import InvalidRequest

Part = Literal[
    "cold",
    "warm",
    "conversation",
    "overhead",
    "routes",
    "adapter",
    "speculation",
    "constrained",
    "busy",
]
PARTS: tuple[Part, ...] = get_args(Part)
_ANY_SERVER: tuple[Part, ...] = ("cold", "warm", "conversation")


@dataclass(frozen=True)
class Options:
    """As given on the command line."""

    plan: Plan
    seed: int
    output: Output
    url: str | None = None
    versus: str | None = None
    model: str | None = None
    api_key: str | None = None
    parts: tuple[str, ...] = ()
    own: bool = False


def run(options: Options, settings: Settings) -> None:
    """Measure and write. Raises EdgeAgentError."""
    parts = _parts(options, settings)
    plan, seed = options.plan, options.seed
    described = asdict(plan) | {"parts": parts}
    with (
        session("latency", described, seed=seed, output=options.output) as running,
        ExitStack() as stack,
    ):
        running.doing("starting")
        targets = _targets(options, settings, running, stack)
        running.settings["servers"] = {target.name: target.model for target in targets}
        if Meter.find().source is None:
            running.note("Energy: this machine exposes no meter that we may read.")
        _measure(running, targets, parts, options)
        stack.close()  # our daemon ends before others of ours begin
        if "overhead" in parts:
            _overhead(running, settings, plan, targets[0].name)
        if "routes" in parts:
            routes.cloud_routes(running, settings, plan, seed=seed)
        if "adapter" in parts:
            few = replace(plan, concurrency=routes.ADAPTER_CONCURRENCY)
            routes.adapters(running, settings, few, seed=seed)
        if "speculation" in parts:
            speculation.speculation(running, settings, plan, seed=seed)
        if "busy" in parts:
            busy.busy(running, settings, plan, targets[1:], seed=seed)


def _measure(
    running: Session, targets: Sequence[Target], parts: Sequence[str], options: Options
) -> None:
    run = LatencyRun(running, options.plan, seed=options.seed)
    prefixes = [prefix for prefix in PREFIXES if prefix in parts]
    running.expect(
        run.steps(len(prefixes), len(targets))
        + len(targets) * ("conversation" in parts)
        + ("overhead" in parts)
        + routes.ROUTE_STEPS * ("routes" in parts)
        + routes.adapter_steps(options.plan.repeats) * ("adapter" in parts)
        + speculation.steps(options.plan) * ("speculation" in parts)
        + options.plan.repeats * ("constrained" in parts)
        + busy.steps(options.plan, len(targets) - 1) * ("busy" in parts)
    )
    for prefix in prefixes:
        run.load(targets, prefix)
    if "conversation" in parts:
        for target in targets:
            run.conversation(target)
    if "constrained" in parts:
        speculation.constrained(running, targets[0], options.plan, seed=options.seed)


def _parts(options: Options, settings: Settings) -> tuple[str, ...]:
    """Those asked for; by default all that can be had but `busy`. Raises InvalidRequest."""
    foreign = options.url is not None or (
        not options.own and find_daemon(settings.data_dir) is not None
    )
    possible = _ANY_SERVER if foreign else PARTS
    usual = tuple(part for part in possible if part != "busy")
    for part in options.parts:
        if part not in PARTS:
            raise InvalidRequest(f"--part {part}: there are {', '.join(PARTS)}", param="part")
        if part not in possible:
            raise InvalidRequest(
                f"--part {part} needs a daemon of the benchmark's own: add --own, without --url",
                param="part",
            )
    return options.parts or usual


def _targets(
    options: Options, settings: Settings, running: Session, stack: ExitStack
) -> list[Target]:
    found = None if options.own else find_daemon(settings.data_dir)
    if options.url is not None:
        first = servers.find(options.url, api_key=options.api_key, model=options.model)
    elif found is not None:
        first = servers.find(found.url, api_key=options.api_key)
        unlogged = {**first.fields, "edge_agent": {"log": False}}
        first = replace(first, fields=unlogged)
        running.note(
            f"Measured the running daemon at {found.url}; its log was left alone. Routes, adapters "
            "and logging are measured with --own."
        )
    else:
        folder = stack.enter_context(servers.temporary_data(settings))
        first = stack.enter_context(servers.own_daemon(settings, folder)).target
        running.note("Measured a daemon of its own, with your settings, on temporary data.")
    if options.versus is None:
        return [first]
    second = servers.find(options.versus)
    if second.name == first.name:
        second = replace(second, name=f"{second.name} at {options.versus}")
    return [first, second]


def _overhead(running: Session, settings: Settings, plan: Plan, name: str) -> None:
    """Against the median request at c=1 on a cold prefix, or whatever else was measured."""
    measured = [
        figure
        for figure in running.figures.done()
        if figure.metric == "e2e p50" and figure.series.startswith(name)
    ]
    if not measured:
        raise InvalidRequest("--part overhead needs --part cold or warm too", param="part")
    with servers.temporary_data(settings) as folder:
        decision_and_logging(
            running,
            settings,
            folder,
            request_s=measured[0].median / 1000,
            repeats=plan.repeats,
        )
