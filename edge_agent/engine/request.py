"""What a request must be before it may wait for a slot.

What drawing tokens needs to know of a model, and the sampler that a request gets.

One request inside the engine thread: its choices, what each has said, where it reports to.
"""

import secrets
import time
from collections.abc import Sequence as Ids
from enum import Enum
from typing import Protocol

from edge_agent.engine.grammar import Grammars
from edge_agent.engine.sampler import (
    Exponentials,
    Row,
    Sampler,
    biases,
    log_sum_exp_without,
    token_logprob,
)
from edge_agent.engine.speculation import Lookup
from edge_agent.engine.stream import TextStream
from edge_agent.errors import ContextLengthExceeded, EdgeAgentError, InvalidRequest
from edge_agent.records.generation import (
    DecisionPoint,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
    TokenLogprob,
)
from models.llama.cells import Sequence
from models.llama.model import LlamaModel
from models.llama.vocabulary import Vocabulary


def check_request(request: GenerationRequest, rules: "DecodingRules") -> None:
    """Raises InvalidRequest naming the field, or ContextLengthExceeded with the numbers."""
    sampling = request.sampling
    check_prompt(request.prompt_ids, rules, "messages")
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise InvalidRequest("max_tokens must be at least 1", param="max_tokens")
    if request.n < 1:
        raise InvalidRequest("n must be at least 1", param="n")
    size = rules.vocabulary.size
    for token in sampling.logit_bias:
        if not 0 <= token < size:
            raise InvalidRequest(
                f"token {token} is not in the vocabulary of {size}", param="logit_bias"
            )


def check_prompt(prompt: Ids[int], rules: "DecodingRules", param: str) -> None:
    """The same of a prompt alone; `param` is the field it came from.

    One token of an answer must fit. `max_tokens` is an upper bound: clients send their default.
    """
    if not prompt:
        raise InvalidRequest("the prompt is empty", param=param)
    if min(prompt) < 0 or max(prompt) >= rules.vocabulary.size:
        raise InvalidRequest("the prompt has token ids outside the vocabulary", param=param)
    limit = rules.context_limit
    if len(prompt) >= limit:
        raise ContextLengthExceeded(limit, len(prompt), param=param)


class DecodingRules:
    """One per model; used in the engine thread only, because samplers share its arrays."""

    def __init__(
        self,
        model: LlamaModel,
        offload_token: int | None,
        context_limit: int,
        grammars: Grammars | None = None,
    ) -> None:
        """`grammars` may be shared by models of one vocabulary; by default there are new ones."""
        if grammars is None:
            grammars = Grammars(Vocabulary(model))
        self.vocabulary = grammars.vocabulary
        self.offload_token = offload_token
        """Never sampled, and never among the best log-probs."""
        self.context_limit = context_limit
        """Longest prompt + answer of one request, in tokens."""
        self.eog = self.vocabulary.eog
        """Tokens that end a generation."""
        self._weights = Exponentials(model.n_vocab)
        self._grammars = grammars

    def sampler(self, sampling: SamplingParams, index: int, prompt: list[int]) -> Sampler:
        """The sampler of choice `index`, whose seed is the request's plus `index`.

        prompt: what `repeat_penalty` looks back on.
        Raises InvalidRequest if the grammar does not parse, or no answer can begin.
        """
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed + index
        banned = set(self.eog) if sampling.ignore_eos else set()
        if self.offload_token is not None:
            banned.add(self.offload_token)
        grammar = None if sampling.grammar is None else self._grammars.start(sampling.grammar)
        return Sampler(
            sampling,
            seed=seed % 2**64,
            bias=biases(sampling, banned=banned),
            weights=self._weights,
            prompt=prompt,
            grammar=grammar,
        )


class Sink(Protocol):
    """Where a job reports to; called in the engine thread."""

    def decided(self, point: DecisionPoint) -> None:
        """The prompt (and the decision window) is computed."""
        ...

    def emit(self, event: TokenEvent) -> None:
        """A piece of one choice."""
        ...

    def close(self, error: EdgeAgentError | None) -> None:
        """Nothing more comes; `error` if the job failed."""
        ...


class Phase(Enum):
    """Where a job is in its life."""

    WAITING = "waiting"
    PREFILL = "prefill"
    WINDOW = "window"
    """Choice 0 is tried until the decision window closes; its events are held back."""
    PARKED = "parked"
    RUNNING = "running"
    CLOSED = "closed"


class Choice:
    """One answer in the making."""

    __slots__ = (
        "_confidence",
        "_ids",
        "_logprobs",
        "_sampler",
        "_text",
        "accepted",
        "draft",
        "finished",
        "generated",
        "held",
        "index",
        "job",
        "lookup",
        "proposed",
        "sequence",
    )

    def __init__(self, job: "Job", index: int) -> None:
        self.job = job
        self.index = index
        born = time.time() if job.request.kept else None
        self.sequence = Sequence(list(job.prompt), lasting=not job.rollout, born=born)
        self.generated = 0
        self.finished = False
        self.held: list[TokenEvent] = []
        """Events of the decision window, until it closes in favour of this answer."""
        self.lookup: Lookup | None = None
        self.draft: list[int] = []
        """Tokens to compute beside the next one, in case they are what is drawn."""
        self.proposed = 0
        self.accepted = 0
        self._sampler: Sampler | None = None
        self._text = TextStream(job.request.sampling.stop)
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._confidence = 0.0

    def seniority(self) -> tuple[int, int]:
        """Smaller for those that came first."""
        return self.job.number, self.index

    @property
    def open_ended(self) -> bool:
        """True if the request sets no max_tokens that fits, so that the reservation grows."""
        return self.job.open_ended

    @property
    def runs(self) -> bool:
        """True if it holds KV and its job is not over."""
        return self.sequence.id >= 0 and not self.finished and self.job.phase is not Phase.CLOSED

    @property
    def max_length(self) -> int:
        """Cells this choice may ever need: prompt and answer."""
        return len(self.job.prompt) + self.job.max_new

    @property
    def room(self) -> int:
        """Tokens that its draft may have: none where a repeat has to round as the first time."""
        job, sequence = self.job, self.sequence
        repeats = job.rollout or not job.request.sampling.cache_prompt
        if repeats or job.phase is not Phase.RUNNING or sequence.pending != 1:
            return 0
        return min(job.max_new - self.generated - 1, sequence.limit - len(sequence.tokens))

    def forced(self) -> list[int]:
        """Tokens of the text that its grammar leaves no choice but to say next."""
        return [] if self._sampler is None else self._sampler.forced()

    @property
    def _may_ask(self) -> bool:
        """A rollout may draw the offload token behind the first position of the window."""
        return self.job.rollout and 0 < self.generated < self.job.request.window

    def advance(self, row: Row, rules: DecodingRules) -> None:
        """Draw the next token from `row` (which is written to) and report what became final."""
        sampling = self.job.request.sampling
        if self._sampler is None:
            self._sampler = rules.sampler(sampling, self.index, self.job.prompt)
        shown, measured = sampling.top_logprobs is not None, self.job.request.confidence
        raw = row.copy() if shown or measured else None
        token = self._sampler.sample(row, unbanned=rules.offload_token if self._may_ask else None)
        if token is None:  # the grammar is complete and the end of the answer is banned
            self.finish("stop")
            return
        self.generated += 1
        self._ids.append(token)
        if raw is not None and measured:
            self._confidence += float(raw[token]) - log_sum_exp_without(raw, rules.offload_token)
        if self.job.rollout:
            self._logprobs.append(TokenLogprob("", token, self._sampler.logprob, b""))
        if token in rules.eog or token == rules.offload_token:
            self.finish("stop")
            return
        text = self._text.push(rules.vocabulary.piece(token))
        if raw is not None and shown and not self._text.stopped:
            self._logprobs.append(
                token_logprob(
                    raw,
                    token,
                    sampling.top_logprobs or 0,
                    lambda i: rules.vocabulary.piece(i, special=True),
                    rules.offload_token,
                )
            )
        if self._text.stopped:
            self.finish("stop", text)
        elif self.generated >= self.job.max_new:
            self.finish("length", text)
        else:
            self.sequence.tokens.append(token)
            if text:
                self._report(text, None)

    def finish(self, reason: FinishReason, text: str = "") -> None:
        """The last event, with whatever text was held back."""
        self.finished = True
        self._report(text + self._text.close(), reason)
        self.close()

    def _report(self, text: str, reason: FinishReason | None) -> None:
        event = TokenEvent(
            index=self.index,
            text=text,
            token_ids=tuple(self._ids),
            logprobs=tuple(self._logprobs),
            finish_reason=reason,
            confidence=self._confidence,
            stopped_by=self._text.stopped_by,
            predicted=(self.accepted, self.proposed - self.accepted) if reason else (0, 0),
        )
        self._confidence = 0.0
        self._ids.clear()
        self._logprobs.clear()
        if self.job.phase is Phase.WINDOW:
            self.held.append(event)
        else:
            self.job.sink.emit(event)

    def release(self) -> None:
        """Report what the decision window held back."""
        for event in self.held:
            self.job.sink.emit(event)
        self.held.clear()

    def close(self) -> None:
        """Free the sampler. Idempotent."""
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None


class Job:
    """One request; belongs to the engine thread once it is submitted."""

    def __init__(
        self, number: int, request: GenerationRequest, sink: Sink, *, rollout: bool = False
    ) -> None:
        """number: order of arrival; the lower, the more senior.

        rollout: report log-probs of the behaviour policy instead of the model's.
        """
        self.number = number
        self.request = request
        self.sink = sink
        self.rollout = rollout
        self.phase = Phase.WAITING
        self.prompt: list[int] = list(request.prompt_ids)
        self.max_new = 0
        """Tokens each choice may be given after `prompt`."""
        self.open_ended = False
        """True if the end of the context alone bounds the answer."""
        self.choices: list[Choice] = []
        self.undecided = True
        """True until the decision point was reported."""
        self.first_row: Row | None = None
        """Logits of the first position, kept while choices may still start from it."""
        self.cached_tokens = 0
        self._measured: list[float] = []
        self._started_at = 0.0

    def begin(self, rules: DecodingRules) -> None:
        """Create the choices; the first one computes the prompt."""
        said = len(self.prompt) - len(self.request.prompt_ids)
        wanted = self.request.sampling.max_tokens
        self.max_new = rules.context_limit - len(self.prompt)
        self.open_ended = wanted is None or wanted - said > self.max_new
        if wanted is not None:
            self.max_new = min(self.max_new, wanted - said)
        self.choices = [Choice(self, i) for i in range(self.request.n)]

    def start(self, cached_tokens: int) -> None:
        """The first choice has got its slot."""
        self.phase = Phase.PREFILL
        self.cached_tokens = cached_tokens
        self._started_at = time.monotonic()

    def extend(self, ids: Ids[int], rules: DecodingRules) -> None:
        """Begin anew after `ids`, which count as said already."""
        self.prompt += ids
        self.first_row = None
        self.phase = Phase.PREFILL
        self.begin(rules)

    def measure(self, p_offload: float) -> None:
        """Softmax mass of the offload token at the next position of the decision window."""
        self._measured.append(p_offload)

    @property
    def window_closed(self) -> bool:
        """True once every position of the decision window was seen."""
        return len(self._measured) >= self.request.window

    @property
    def age_s(self) -> float:
        """Seconds since the job got its slot."""
        return time.monotonic() - self._started_at

    def point(self, version: str) -> DecisionPoint:
        """What is known when the decision window closes."""
        return DecisionPoint(
            p_offload=max(self._measured, default=0.0),
            p_first=self._measured[0] if self._measured else 0.0,
            prompt_tokens=len(self.request.prompt_ids),
            cached_tokens=self.cached_tokens,
            version=version,
            prefill_s=self.age_s,
        )
