"""The cloud client: any OpenAI-compatible API, or one that is translated, always streamed.

A call passes four gates: the circuit breaker, the connection, the status, the first content.
`CloudClient.open` returns behind the last one. Up to there a failed try may be repeated, but only
where it certainly cost nothing: no byte of the query left, or the server answered with an error.
What broke off without a word may have been billed and is not repeated.

One deadline (`total_timeout_s`) covers everything: connecting, waiting to retry, the stream.
HTTP itself is in `transport`.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path as File
from typing import Any, Self

from edge_agent.cloud.answer import CloudAnswer
from edge_agent.cloud.check import CloudCheck, find_api_key, judge
from edge_agent.cloud.kinds import KINDS, Kind, kind_of
from edge_agent.cloud.lessons import (
    Lessons,
    Path,
    apply,
    is_about_the_field,
    is_about_the_query,
    is_said,
    lesson,
    refused_fields,
)
from edge_agent.cloud.objects import error_message
from edge_agent.cloud.prices import known_price
from edge_agent.cloud.retry import (
    BreakerState,
    CircuitBreaker,
    backoff_s,
    is_retryable,
    retry_after_s,
    retry_delay_s,
)
from edge_agent.cloud.stream import AnswerReader
from edge_agent.cloud.tool_turns import ToolTurns
from edge_agent.cloud.transport import ANSWERS, Response, Transport
from edge_agent.config.settings import CloudSettings, Price
from edge_agent.errors import (
    CloudBroken,
    CloudBusy,
    CloudDown,
    CloudError,
    CloudRefused,
    ConfigError,
)

_OURS = frozenset({"edge_agent", "model", "stream", "stream_options"})
_TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")
_KNOWN_TIERS = frozenset({"default", "standard", "on_demand", "flex"})
"""Tiers that bill the price that is known or less; a dearer one is a hint that is not followed, nor
is "auto", which may be one."""
_NEED_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
_MAY_BE_NULL = frozenset({"content"})


def request_body(
    body: Mapping[str, Any], model: str, endpoint: str, max_tokens: int, kind: Kind
) -> dict[str, Any]:
    """`body` as `kind` takes it: our model, streamed with usage, `max_tokens` a choice at most.

    The limit keeps the field name the client used; without a limit of the client's it gets ours.
    Fields that say nothing are left out: strict servers refuse a null and an empty list of tools.
    """
    kept = {
        k: v for k, v in body.items() if k not in _OURS and k not in _TOKEN_FIELDS and v is not None
    }
    if kind.metadata_is_stored and not kept.get("store"):
        kept.pop("metadata", None)
    if not kind.cache_control:
        kept.pop("cache_control", None)
    if not kept.get("tools"):
        kept = {k: v for k, v in kept.items() if k not in _NEED_TOOLS}
    if kept.get("service_tier") not in _KNOWN_TIERS:
        kept.pop("service_tier", None)
    if "messages" in kept:
        kept["messages"] = [_message(message) for message in kept["messages"]]
    asked = {field: body[field] for field in _TOKEN_FIELDS if body.get(field) is not None}
    field = "max_tokens" if endpoint == "completions" else next(reversed(asked), "max_tokens")
    return {
        **(kind.fields if endpoint == "chat/completions" else {}),
        **kept,
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        field: min([max_tokens, *asked.values()]),
    }


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """SDKs send a whole answer back, with its empty fields; one that said nothing is ""."""
    says = any(message.get(field) for field in ("content", "tool_calls", "refusal"))
    if message.get("role") == "assistant" and not says:
        message = {**message, "content": ""}
    return {k: v for k, v in message.items() if k in _MAY_BE_NULL or (v is not None and v != [])}


_ERROR_BYTES = 64 * 1024
_LIST_BYTES = 4_000_000
"""Of the list of models: some gateways have hundreds."""
_MOST_MENDED = 16
"""Fields of one call; a 400 is not billed, but it takes time."""
_REFUSED_FOR_ALL = frozenset({402, 404})
"""No credit; no such model or path. (401, 403 and redirects have messages of their own.)"""

__all__ = ["CloudAnswer", "CloudCheck", "CloudClient", "find_api_key"]


class _Mending:
    """How one call is changed until the cloud takes it: a field at a time, none twice."""

    def __init__(self, known: Mapping[Path, str | None]) -> None:
        self.lessons = dict(known)
        self.lasting: dict[Path, str | None] = {}
        """Of these, what was learned here and holds for other calls."""
        self._refused: set[Path] = set()

    def learn(self, error: CloudRefused, payload: Mapping[str, Any], endpoint: str) -> bool:
        """Whether the refusal names a field that can be done without, so that a repeat pays."""
        if error.for_all or error.said is None or is_about_the_query(error.said):
            return False
        said = error.said
        found = [lesson(path, payload, said) for path in refused_fields(said, payload)]
        new = {path: name for path, name in filter(None, found) if path not in self._refused}
        if endpoint != "chat/completions":
            new = {path: name for path, name in new.items() if name is None}
        if not new or len(self._refused) >= _MOST_MENDED:
            return False
        for path, name in new.items():
            if name is not None and (name,) in self._refused:
                return False  # neither name of the limit: nothing would bound the answer
            self.lessons.pop((name or "",), None)
            self.lessons[path] = name
            if is_about_the_field(said) or (name is not None and is_said(name, said)):
                self.lasting[path] = name
        self._refused |= set(new)
        return True


def _is_about_this_query(error: CloudRefused) -> bool:
    return not error.for_all and error.said is not None and is_about_the_query(error.said)


class CloudClient:
    """One cloud. Made once, used from one event loop, closed with `aclose`."""

    def __init__(
        self,
        settings: CloudSettings,
        *,
        api_key: str | None = None,
        database: File | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """What refusals teach is kept in `database`. Raises ConfigError without a cloud."""
        if settings.url is None or settings.model is None:
            raise ConfigError("no cloud is configured: set cloud.url and cloud.model")
        self.model = settings.model
        self._settings = settings
        self._kind = KINDS[kind_of(settings)]
        self._transport = Transport(settings.url, settings, api_key=api_key, clock=clock)
        self.host = self._transport.host
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311
        self._sleep = sleep
        self._breaker = CircuitBreaker(
            settings.breaker_failures, settings.breaker_reset_s, clock=clock
        )
        self.lessons = Lessons(settings.url, settings.model, database)
        self._turns = ToolTurns(database)

    @property
    def state(self) -> BreakerState:
        """The circuit breaker's."""
        return self._breaker.state

    @property
    def last_failure(self) -> str | None:
        """Why the latest call failed; None if it did not."""
        return self._breaker.last_failure or None

    def price(self, model: str, prompt_tokens: int = 0) -> Price | None:
        """What `model` costs here for a prompt of at most `prompt_tokens`.

        None if neither the configuration nor the table says.
        """
        found = known_price(self._settings, model)
        return None if found is None else found.for_prompt(prompt_tokens)

    @property
    def max_hidden_tokens(self) -> int | None:
        """What the configuration reserves for thinking beyond an answer's limit."""
        return self._settings.max_hidden_tokens

    def recalled(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`body` with what this cloud said beside the tool calls in it: it is billed for too.

        Blocking: the database may know.
        """
        if "messages" not in body:
            return dict(body)
        return {**body, "messages": self._turns.restore(body["messages"])}

    async def open(
        self,
        body: Mapping[str, Any],
        *,
        endpoint: str = "chat/completions",
        max_tokens: int,
        patient: bool = True,
    ) -> CloudAnswer:
        """Ask, and return when the first content is there.

        `body` is a client's request; model and streaming are ours, and no choice gets more than
        `max_tokens` tokens. Unless `patient`, a busy cloud is not waited for longer than
        `cloud.longest_wait_s`. Raises CloudDown, CloudUnreachable, CloudRefused, CloudBusy,
        CloudTimeout or CloudBroken; `sent` is False only if no byte of the query has left.
        """
        ticket = self._breaker.enter()
        if ticket is None:
            wait_s = self._breaker.reopens_in_s
            raise CloudDown(
                f"{self.host} failed {self._settings.breaker_failures} times in a row; "
                + (f"next try in {wait_s:.0f} s" if wait_s else "one call is probing it")
                + f" (last: {self._breaker.last_failure})",
                sent=False,
            )
        started = self._clock()
        deadline = started + self._settings.total_timeout_s
        try:
            answer = await self._try_until(deadline, body, endpoint, max_tokens, patient=patient)
        except CloudError as error:
            if isinstance(error, CloudRefused) and not error.sent:
                self._breaker.abandon(ticket)  # it was not even asked
            elif isinstance(error, CloudRefused) and _is_about_this_query(error):
                self._breaker.success()
            else:
                self._breaker.failure(error.message)
            raise
        except BaseException:
            self._breaker.abandon(ticket)
            raise
        self._breaker.progress(ticket)
        answer.begin(self._breaker, ttft_s=self._clock() - started)
        return answer

    async def _try_until(
        self,
        deadline: float,
        body: Mapping[str, Any],
        endpoint: str,
        max_tokens: int,
        *,
        patient: bool,
    ) -> CloudAnswer:
        longest_s = float("inf") if patient else self._settings.longest_wait_s
        attempt, sent = 0, False
        asked = request_body(body, self.model, endpoint, max_tokens, self._kind)
        known = self._kind.lessons if endpoint == "chat/completions" else {}
        mending = _Mending({**known, **self.lessons.known(endpoint)})
        while True:
            payload = apply(asked, mending.lessons)
            try:
                answer = await self._try(deadline, payload, endpoint)
                if mending.lasting:
                    await asyncio.to_thread(self.lessons.learn, mending.lasting)
                return answer
            except CloudError as error:
                if isinstance(error, CloudRefused) and mending.learn(error, payload, endpoint):
                    sent = True
                    continue
                repeatable = isinstance(error, CloudBusy) or not error.sent
                error.sent = sent = error.sent or sent
                if not repeatable or attempt >= self._settings.retries:
                    raise
                named_s = error.retry_after_s if isinstance(error, CloudBusy) else None
                wait_s = backoff_s(attempt, self._rng) if named_s is None else named_s
                if wait_s > longest_s or wait_s >= deadline - self._clock():
                    raise
            attempt += 1
            await self._sleep(wait_s)

    async def _try(self, deadline: float, payload: dict[str, Any], endpoint: str) -> CloudAnswer:
        response = await self._transport.post(endpoint, payload, deadline=deadline)
        try:
            await self._check_status(response)
            streamed, n = self._streams(response), int(payload.get("n") or 1)
            stop = payload.get("stop") or ()
            reader = AnswerReader(
                n,
                streamed=streamed,
                turns=self._turns,
                stops=(stop,) if isinstance(stop, str) else tuple(stop),
            )
            answer = CloudAnswer(self.model, response.body, reader)
            await answer.wait_for_content()
        except BaseException:
            await response.body.aclose()
            raise
        return answer

    async def _check_status(self, response: Response) -> None:
        status = response.status
        if status == 200:
            return
        if status in (401, 403):
            raise CloudRefused(
                f"{self.host} answered {status}: the API key is missing, wrong or without rights "
                f"to {self.model}; put it in {self._settings.api_key_env} or the keyring",
                sent=True,
                for_all=True,
            )
        if 300 <= status < 400:
            raise CloudRefused(
                f"{self.host} answered {status}, a redirect, which is not followed: "
                "set cloud.url to the address meant",
                sent=True,
                for_all=True,
            )
        said = await response.body.read(_ERROR_BYTES)
        words = self._transport.without_key(said.decode("utf-8", "replace"))
        message = f"{self.host} answered {status}: {self._transport.scrub(error_message(said))}"
        if is_retryable(status):
            named_s = retry_after_s(response.headers)
            if named_s is None:
                named_s = retry_delay_s(words)
            raise CloudBusy(message, sent=True, retry_after_s=named_s)
        if status < 400:
            raise CloudBroken(message, sent=True)
        raise CloudRefused(message, sent=True, for_all=status in _REFUSED_FOR_ALL, said=words)

    def _streams(self, response: Response) -> bool:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", ""):
            raise CloudBroken(
                f"{self.host} compressed its answer ({self._transport.scrub(encoding)}), unasked",
                sent=True,
            )
        kind = response.content_type
        if kind not in ANSWERS:
            raise CloudBroken(
                f"{self.host} sent {self._transport.scrub(kind)}, which is not an answer: "
                "is cloud.url the base URL of an OpenAI-compatible API, or of Anthropic's?",
                sent=True,
            )
        return kind != "application/json"

    async def check(self) -> CloudCheck:
        """Whether the cloud can be reached and knows the model, by GET {url}/models."""
        started = self._clock()
        deadline = started + self._settings.first_byte_timeout_s
        try:
            response = await self._transport.get(self._kind.models or "models", deadline=deadline)
            try:
                listed = await response.body.read(_LIST_BYTES)
            finally:
                await response.body.aclose()
        except CloudError as error:
            return CloudCheck(ok=False, message=error.message)
        return judge(
            status=response.status,
            body=listed,
            latency_s=self._clock() - started,
            url=self._transport.url,
            settings=self._settings,
            has_key=self._transport.has_key,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
