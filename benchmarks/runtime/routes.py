"""An adapter to measure with. Its values are those of a fresh one: what it costs to serve

depends on its shape alone.

Decision and logging on their own, in this process: the daemon's own parts, nothing else.

    decision   τ read from the ledger, and the policy's choice
    logging    a query handed to the log's writer, until its row is committed

p_offload itself is read from logits that answering needs anyway; its softmax is part of the
request, not of this. Both are set against the time of one request measured in the same run.

Routes of a daemon of our own: the cloud's, the way back from it, and adapted models.

The cloud is the stand-in with a fixed first-token time, asked directly too, so that what the
daemon adds is seen. In the fallback it answers every call with a server error.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from benchmarks.runtime import http_load
from benchmarks.runtime.http_load import Prompts, Target
from benchmarks.runtime.latency import LatencyRun, Plan, add_load, with_model
from benchmarks.runtime.log_size import example_query, example_response
from benchmarks.runtime.servers import (
    OURS,
    Own,
    own_daemon,
    reference_cloud,
    temporary_data,
    wait_for,
)
from benchmarks.runtime.session import Session
from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import Settings
from edge_agent.log.store import Store
from edge_agent.records.generation import DecisionPoint
from edge_agent.routing.decider import Decider
from models import catalog
from models.adapters.registry import AdapterRegistry
from models.adapters.version import MERGED
from models.offload_token import verify
from trainer.learner import Learner
from trainer.policy.export import export
from trainer.policy.settings import LearnerSettings

Kind = Literal["merged", "lora"]


def install(settings: Settings, folder: Path, kind: Kind) -> None:
    """Activate a fresh adapter of `settings.train`'s shape in the data directory `folder`.

    `merged`: with every file that a round of training makes, so that the daemon serves it as it
    would serve a promoted one. `lora`: without the merged weights, so that the LoRA is attached
    at run time.
    """
    model = catalog.resolve(settings.model, settings.data_dir)
    learner = Learner(
        model.path,
        LearnerSettings.of(settings.train),
        offload_token=verify(model.path, model.entry.offload_token),
    )
    work = folder / "adapter"
    learner.lora.save(work)
    files = export(work, model.path)
    if kind == "lora":
        files.pop(MERGED)
    registry = AdapterRegistry(folder / "adapters", base_sha256=model.base_sha256)
    version = registry.add(files, base_model=model.entry.name, base_sha256=model.base_sha256)
    registry.set_status(version.version, "promoted", reason="benchmark")
    registry.activate(version.version)


_CALLS = 200
SERIES = "decision and logging"


def decision_and_logging(
    session: Session, settings: Settings, folder: Path, *, request_s: float, repeats: int
) -> None:
    """Milliseconds of each, and their share of a request that takes `request_s`."""
    rng = random.Random(0)  # noqa: S311
    ledger = Ledger(folder / "overhead.db", seed=settings.budget)
    store = Store(folder / "overhead.db")
    decider = Decider(settings.decision, rng=rng)

    def decide() -> None:
        rate = ledger.limits().rate
        point = DecisionPoint(rng.random(), 0.1, 128, 0, "v0001", 0.1)
        decider.decide(point, trained=True, rate=rate)

    def log() -> None:
        decision, outcome = example_response(rng)
        store.save(example_query(rng), decision, outcome).result()

    try:
        for _ in range(repeats):
            costs = {"decision": _mean_s(decide), "logging": _mean_s(log)}
            for name, seconds in costs.items():
                session.figures.add(SERIES, name, 1000 * seconds, unit="ms")
            share = 100 * sum(costs.values()) / request_s
            session.figures.add(SERIES, "share of a request", share, unit="%")
    finally:
        store.close()
        ledger.close()
    session.step()


def _mean_s(call: Callable[[], None]) -> float:
    call()
    began = time.perf_counter()
    for _ in range(_CALLS):
        call()
    return (time.perf_counter() - began) / _CALLS


CLOUD_TTFT_MS = 50
_CONCURRENCY = (1, 8)
ADAPTER_CONCURRENCY = (1, 8)
_ADAPTERS: tuple[Kind, ...] = ("merged", "lora")
_NAMES: dict[Kind, str] = {"merged": "merged adapter", "lora": "runtime LoRA"}
ROUTE_STEPS = 3 * len(_CONCURRENCY)


def adapter_steps(repeats: int) -> int:
    """How many steps of progress `adapters` takes."""
    return 2 * len(_ADAPTERS) * len(ADAPTER_CONCURRENCY) * repeats


def cloud_routes(session: Session, settings: Settings, plan: Plan, *, seed: int) -> None:
    """The cloud asked directly, through the daemon, and failing."""
    options = ("--latency-ms", str(CLOUD_TTFT_MS), "--seed", str(seed))
    with _daemon_with_cloud(settings, *options) as (own, cloud):
        _load(session, cloud, plan, seed, "cloud, asked directly")
        ours = with_model(own.target, "edge-cloud", OURS, exact_length=False)
        _load(session, ours, plan, seed, f"{OURS}, cloud route")
    with _daemon_with_cloud(settings, *options, "--fault", "server_error=1") as (own, _):
        ours = with_model(own.target, "edge-cloud", OURS, exact_length=False)
        _load(session, ours, plan, seed, f"{OURS}, fallback route")


@contextmanager
def _daemon_with_cloud(settings: Settings, *options: str) -> Iterator[tuple[Own, Target]]:
    with temporary_data(settings) as folder, reference_cloud(folder, *options) as cloud:
        direct = Target("cloud", str(cloud["url"]).removesuffix("/v1"), str(cloud["model"]))
        with own_daemon(settings, folder, cloud=cloud) as own:
            yield own, direct


def _load(session: Session, target: Target, plan: Plan, seed: int, series: str) -> None:
    prompts = Prompts(seed)
    for concurrency in _CONCURRENCY:
        session.doing(f"{series}, c={concurrency}")
        for _ in range(plan.repeats):
            requests = [
                target.request(prompts.cold(plan.prompt_words), plan.output_tokens)
                for _ in range(plan.requests_at(concurrency))
            ]
            done = http_load.run(target, requests, concurrency, timeout_s=plan.timeout_s)
            if done.good:
                add_load(session, series, f"c={concurrency}", done)
            for error in done.errors[:1]:
                session.note(f"{series}: {len(done.errors)} × {error}")
        session.step()


def adapters(session: Session, settings: Settings, plan: Plan, *, seed: int) -> None:
    """The merged adapter and the runtime LoRA, each by turns with the base model."""
    for kind in _ADAPTERS:
        session.doing(f"making a {_NAMES[kind]}")
        with (
            temporary_data(settings) as plain,
            temporary_data(settings) as folder,
            own_daemon(settings, plain) as base,
        ):
            install(settings, folder, kind)
            with own_daemon(settings, folder) as own:
                wait_for(
                    lambda own=own: own.client.get("/v1/status")["adapter"]["trained"],  # type: ignore[misc]
                    limit_s=30,
                    what="serving the adapter",
                )
                pair = [replace(own.target, name=_NAMES[kind]), replace(base.target, name="base")]
                LatencyRun(session, plan, seed=seed).load(pair, "cold")
