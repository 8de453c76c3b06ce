"""Routes of a daemon of our own: the cloud's, the way back from it, and adapted models.

The cloud is the stand-in with a fixed first-token time, asked directly too, so that what the
daemon adds is seen. In the fallback it answers every call with a server error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.runtime import http_load
from benchmarks.runtime.adapter import Kind, install
from benchmarks.runtime.http_load import Target
from benchmarks.runtime.latency import LatencyRun, Plan, add_load, with_model
from benchmarks.runtime.prompts import Prompts
from benchmarks.runtime.servers import (
    OURS,
    Own,
    own_daemon,
    reference_cloud,
    temporary_data,
    wait_for,
)
from benchmarks.runtime.session import Session
from edge_agent.settings import Settings

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
