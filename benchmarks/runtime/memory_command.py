"""`edge-agent benchmark memory`: daemons of every size, another server, the trainer."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.runtime import http_load, servers, train
from benchmarks.runtime.http_load import Prompts, Target
from benchmarks.runtime.machine import memory_mb
from benchmarks.runtime.session import Output, Session, session
from edge_agent.config.settings import Settings
from edge_agent.errors import EdgeAgentError, Unavailable

_PROMPT_WORDS, _ANSWER_TOKENS = 128, 32


@dataclass(frozen=True, slots=True)
class Plan:
    """Every combination is a daemon of its own."""

    models: tuple[str, ...]
    contexts: tuple[int, ...]
    slots: tuple[int, ...]
    waves: int = 2
    """Of as many requests at once as there are slots, no two with the same prompt."""
    repeats: int = 3
    versus: str | None = None
    trainer: bool = True


def run(plan: Plan, settings: Settings, *, seed: int, output: Output) -> None:
    """Measure and write. Raises EdgeAgentError."""
    sizes = [(m, c, s) for m in plan.models for c in plan.contexts for s in plan.slots]
    with session("memory", asdict(plan), seed=seed, output=output) as running:
        running.expect(len(sizes) * plan.repeats + plan.trainer + (plan.versus is not None))
        if psutil.virtual_memory().available < 1e9:
            running.note("Less than 1 GB was free: pages may have been swapped out.")
        for repeat in range(plan.repeats):
            for model, context, slots in sizes:
                running.doing(f"{model}, {context} cells, {slots} slots")
                _daemon(
                    running, settings, model, context, slots, waves=plan.waves, seed=seed + repeat
                )
                running.step()
        if plan.versus is not None:
            running.doing(plan.versus)
            _other(running, plan.versus, max(plan.slots), plan.waves, seed=seed)
            running.step()
        if plan.trainer:
            running.doing("trainer")
            _trainer(running, settings, seed=seed)
            running.step()


def _daemon(
    running: Session, settings: Settings, model: str, context: int, slots: int, *, waves: int,
    seed: int,
) -> None:  # fmt: skip
    chosen = settings.model_copy(update={"model": model})
    fields = {
        "EDGE_AGENT_ENGINE_CONTEXT": str(context),
        "EDGE_AGENT_ENGINE_SLOTS": str(slots),
    }
    at = f"{Path(model).stem}, {context} cells, {slots} slots"
    with (
        servers.temporary_data(chosen) as folder,
        servers.own_daemon(chosen, folder, fields=fields) as own,
    ):
        _add(running, servers.OURS, "idle", at, memory_mb(own.pid))
        # A word may be several tokens: leave room for them.
        _load(own.target, slots, waves, seed, words=min(_PROMPT_WORDS, context // 16))
        _add(running, servers.OURS, "after load", at, memory_mb(own.pid))


def _other(running: Session, url: str, slots: int, waves: int, *, seed: int) -> None:
    """Another server on this machine under the same load; its size is what it was started with."""
    target = servers.find(url)
    pid = servers.process_at(url)
    if pid is None:
        raise Unavailable(f"the process behind {url} cannot be seen from here")
    _load(target, slots, waves, seed)
    _add(running, target.name, "after load", f"under {waves} × {slots} requests", memory_mb(pid))


def _load(target: Target, width: int, waves: int, seed: int, *, words: int = _PROMPT_WORDS) -> None:
    prompts = Prompts(seed)
    requests = [target.request(prompts.cold(words), _ANSWER_TOKENS) for _ in range(waves * width)]
    done = http_load.run(target, requests, width, timeout_s=300)
    if not done.good:
        raise EdgeAgentError(f"{target.name} answers nothing: {done.errors[0]}")


def _add(running: Session, name: str, when: str, at: str, found: dict[str, float]) -> None:
    for kind, value in found.items():
        # A peak is over the process's life, whenever it is read.
        if kind == "peak rss" and when == "idle":
            continue
        running.figures.add(f"{name}, {when}", kind, value, unit="MB", at=at)


def _trainer(running: Session, settings: Settings, *, seed: int) -> None:
    """One DA-GRPO step and one supervised step, each in a process of its own."""
    with suppress(train.NotInstalled):
        for part in ("dagrpo", "supervised"):
            done = train.in_child(part, settings, train.Plan(), seed=seed)
            running.figures.add("trainer", f"{part} step, peak rss", done["peak_mb"], unit="MB")
        return
    running.note("Trainer: torch is not installed, so it was not measured.")
