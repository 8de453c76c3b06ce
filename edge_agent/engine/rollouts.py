"""Groups of sampled answers for the trainer, through the same scheduler as everything else.

Each prompt is one job with `count` choices: one prefill, shared KV, and slots that are refilled
across prompts as answers end.
"""

import threading
from collections.abc import Callable, Sequence

from edge_agent.engine.types import (
    DecisionPoint,
    FinishReason,
    GenerationRequest,
    Group,
    Rollout,
    SamplingParams,
    TokenEvent,
)
from edge_agent.errors import EdgeAgentError, InvalidRequest


class GroupSink:
    """Collects one group (`job.Sink`); `done` is called when it is complete or failed."""

    def __init__(self, prompt_ids: tuple[int, ...], count: int, done: Callable[[], None]) -> None:
        self._prompt_ids = prompt_ids
        self._tokens: list[list[int]] = [[] for _ in range(count)]
        self._logprobs: list[list[float]] = [[] for _ in range(count)]
        self._reasons: list[FinishReason] = ["length"] * count
        self._point: DecisionPoint | None = None
        self._done = done
        self.error: EdgeAgentError | None = None

    def decided(self, point: DecisionPoint) -> None:
        """The prompt is computed."""
        self._point = point

    def emit(self, event: TokenEvent) -> None:
        """A piece of one rollout."""
        self._tokens[event.index] += event.token_ids
        self._logprobs[event.index] += (item.logprob for item in event.logprobs)
        if event.finish_reason is not None:
            self._reasons[event.index] = event.finish_reason

    def close(self, error: EdgeAgentError | None) -> None:
        """Nothing more comes."""
        self.error = error
        self._done()

    def group(self) -> Group:
        """The complete group. Raises what the job failed with."""
        if self.error is not None:
            raise self.error
        assert self._point is not None
        version = self._point.version
        rollouts = tuple(
            Rollout(tuple(tokens), tuple(logprobs), reason, version)
            for tokens, logprobs, reason in zip(
                self._tokens, self._logprobs, self._reasons, strict=True
            )
        )
        return Group(self._prompt_ids, rollouts, self._point.p_offload)


def sample_groups(
    submit: Callable[[GenerationRequest, GroupSink], None],
    prompts: Sequence[Sequence[int]],
    count: int,
    *,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    window: int,
) -> list[Group]:
    """Submit every prompt at once and wait. Choice i of prompt k has seed + k·count + i."""
    if temperature <= 0:
        raise InvalidRequest("rollouts need a temperature above 0", param="temperature")
    if count < 1:
        raise InvalidRequest("a group has at least one rollout", param="count")
    finished = threading.Semaphore(0)
    sinks = []
    for k, prompt in enumerate(prompts):
        sampling = SamplingParams(
            temperature=temperature,
            max_tokens=max_tokens,
            seed=None if seed is None else seed + k * count,
        )
        request = GenerationRequest(tuple(prompt), sampling, n=count, window=window)
        sink = GroupSink(request.prompt_ids, count, finished.release)
        submit(request, sink)
        sinks.append(sink)
    for _ in sinks:
        finished.acquire()
    return [sink.group() for sink in sinks]
