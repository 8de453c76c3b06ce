"""Latency over HTTP: every server under the same load, by turns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.runtime import http_load
from benchmarks.runtime.energy import Meter
from benchmarks.runtime.http_load import Messages, Prompts, Target
from benchmarks.runtime.session import Session
from benchmarks.runtime.timings import Load, Timing
from edge_agent.errors import EdgeAgentError

Prefix = Literal["cold", "warm"]
PREFIXES: tuple[Prefix, ...] = ("cold", "warm")
_TAIL_WORDS = 16
"""What is new in a prompt whose prefix is warm."""
_TURNS_AT_LEAST = 512
"""Words of a conversation's first turn: reuse shows on long prompts."""
_CONVERSATIONS = 2
"""In each repeat."""
_UNITS = {"ttft": "ms", "itl": "ms", "tpot": "ms", "e2e": "ms"}
_RATIOS = ("output tok/s", "ttft p50", "ttft p95", "itl p50", "e2e p50")


@dataclass(frozen=True, slots=True)
class Plan:
    """The load."""

    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16)
    prompt_words: int = 128
    output_tokens: int = 128
    requests: int = 8
    """Of one repeat at one concurrency, but at least two for each worker."""
    repeats: int = 3
    timeout_s: float = 300

    def requests_at(self, concurrency: int) -> int:
        """How many requests one repeat sends."""
        return max(self.requests, 2 * concurrency)


def in_turns(targets: Sequence[Target], repeat: int) -> Sequence[Target]:
    """The order of one repeat: each server is first as often as the other."""
    return targets if repeat % 2 == 0 else tuple(reversed(targets))


class LatencyRun:
    """Measures one server, or two by turns, into a session."""

    def __init__(self, session: Session, plan: Plan, *, seed: int) -> None:
        self._session = session
        self._plan = plan
        self._prompts = Prompts(seed)
        self._meter = Meter.find()

    def steps(self, prefixes: int, targets: int) -> int:
        """How many steps of progress `load` takes."""
        return prefixes * targets * self._plan.repeats * len(self._plan.concurrency)

    def load(self, targets: Sequence[Target], prefix: Prefix) -> None:
        """Every concurrency, every repeat, the targets by turns; with two, ratios too."""
        what = f"{prefix} prefix"
        shared = self._prompts.text(self._plan.prompt_words - _TAIL_WORDS)
        for target in targets:
            self._warm_up(target, prefix, shared)
        for concurrency in self._plan.concurrency:
            at = f"c={concurrency}"
            for repeat in range(self._plan.repeats):
                measured = {}
                for target in in_turns(targets, repeat):
                    self._session.doing(f"{target.name}, {what}, {at}")
                    done = self._one(target, prefix, shared, concurrency)
                    measured[target.name] = add_load(
                        self._session, f"{target.name}, {what}", at, done
                    )
                    self._session.step()
                if len(targets) == 2:
                    first, second = (measured[target.name] for target in targets)
                    self._add_ratios(targets, what, at, first, second)

    def _warm_up(self, target: Target, prefix: Prefix, shared: str) -> None:
        """Page in the weights, start threads, put the shared prefix into the cache."""
        width = max(self._plan.concurrency)
        requests = [
            target.request(self._messages(prefix, shared), min(8, self._plan.output_tokens))
            for _ in range(1 + width)
        ]
        # One alone first: requests that come together cannot yet share what none has computed.
        for batch in (requests[:1], requests[1:]):
            load = http_load.run(target, batch, width, timeout_s=self._plan.timeout_s)
        if not load.good:
            raise EdgeAgentError(f"{target.name} answers nothing: {load.errors[0]}")

    def _messages(self, prefix: Prefix, shared: str) -> Messages:
        if prefix == "warm":
            return self._prompts.warm(shared, _TAIL_WORDS)
        return self._prompts.cold(self._plan.prompt_words)

    def _one(self, target: Target, prefix: Prefix, shared: str, concurrency: int) -> Load:
        plan = self._plan
        requests = [
            target.request(self._messages(prefix, shared), plan.output_tokens)
            for _ in range(plan.requests_at(concurrency))
        ]
        with self._meter.measuring() as energy:
            done = http_load.run(target, requests, concurrency, timeout_s=plan.timeout_s)
        if not done.good:
            raise EdgeAgentError(f"{target.name} answers nothing: {done.errors[0]}")
        tokens = sum(timing.completion_tokens for timing in done.good)
        if energy.joules is not None:
            self._session.figures.add(
                target.name,
                "energy",
                energy.joules / tokens,
                unit="J/token",
                at=f"c={concurrency}",
            )
        for error in done.errors[:1]:
            self._session.note(f"{target.name} at c={concurrency}: {len(done.errors)} × {error}")
        short = [t for t in done.good if t.completion_tokens < plan.output_tokens]
        if short:
            self._session.note(
                f"{target.name} ended some answers before {plan.output_tokens} tokens"
            )
        return done

    def _add_ratios(
        self,
        targets: Sequence[Target],
        what: str,
        at: str,
        first: dict[str, float],
        second: dict[str, float],
    ) -> None:
        series = f"{targets[0].name} / {targets[1].name}, {what}"
        for metric in _RATIOS:
            if metric in first and second.get(metric):
                self._session.figures.add(
                    series,
                    metric,
                    first[metric] / second[metric],
                    unit="×",
                    at=at,
                    better="higher" if metric == "output tok/s" else "lower",
                )

    def conversation(self, target: Target) -> None:
        """Turn 2's TTFT against a prompt of the same length of which nothing is cached."""
        series = f"{target.name}, conversation"
        try:
            for _ in range(_CONVERSATIONS * self._plan.repeats):
                self._session.doing(series)
                self._conversation(target, series)
        except EdgeAgentError as error:  # a context too small for it is no reason to stop
            self._session.note(f"{series}: {error}")
        self._session.step()

    def _conversation(self, target: Target, series: str) -> None:
        prompts, words = self._prompts, max(_TURNS_AT_LEAST, self._plan.prompt_words)
        opening = prompts.text(words)
        said = self._ask(target, [{"role": "user", "content": opening}], 48).text
        later = self._ask(target, prompts.second_turn(opening, said, _TAIL_WORDS), 8)
        foreign = prompts.second_turn(prompts.text(words), said, _TAIL_WORDS)
        first = self._ask(target, foreign, 8)
        add = self._session.figures.add
        add(series, "turn 2 ttft", 1000 * later.ttft_s, unit="ms")
        add(series, "turn 1 ttft", 1000 * first.ttft_s, unit="ms")
        add(series, "turn 2 / turn 1", later.ttft_s / first.ttft_s, unit="×")
        add(series, "prompt", later.prompt_tokens, unit="tokens", better="neither")
        add(series, "cached in turn 2", later.cached_tokens, unit="tokens", better="higher")

    def _ask(self, target: Target, messages: Messages, max_tokens: int) -> Timing:
        request = target.request(messages, max_tokens)
        done = http_load.run(target, [request], 1, timeout_s=self._plan.timeout_s)
        if not done.good:
            raise EdgeAgentError(f"{target.name} does not answer: {done.errors[0]}")
        return done.good[0]


def add_load(session: Session, series: str, at: str, done: Load) -> dict[str, float]:
    """Put one repeat into the session; returns its figures by metric."""
    found = dict(_figures(done))
    for metric, value in found.items():
        kind = metric.split()[0]
        session.figures.add(
            series,
            metric,
            value,
            unit=_UNITS.get(kind, "tok/s" if kind == "output" else ""),
            at=at,
            better="higher" if kind == "output" else "lower",
        )
    return found


def _figures(done: Load) -> Iterator[tuple[str, float]]:
    yield "output tok/s", done.tokens_per_second
    for quantity, values in done.summary().items():
        for name, seconds in values.items():
            yield f"{quantity} {name}", 1000 * seconds
    yield "errors", float(len(done.errors))


def with_model(target: Target, model: str, name: str, *, exact_length: bool = True) -> Target:
    """The same server asked under another model name."""
    fields = target.fields if exact_length else {}
    return replace(target, model=model, name=name, fields=fields)
