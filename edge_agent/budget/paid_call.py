"""One paid cloud call: reserve the worst case, ask, stream, book what it cost.

The reservation is made before the first byte leaves and ended exactly once, whatever happens:

    nothing was sent                         released
    429, 5xx or 4xx instead of an answer     booked as one call without tokens (not billed)
    a whole answer with usage                booked at its usage
    a whole answer with half a usage         booked in full, or more where the half says so
    cut, timed out, or closed by the client  likewise (what was billed is not known)

Retries inside one call are not further calls: only an answer is billed.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_agent.budget.bill import Reservation
from edge_agent.budget.ledger import Ledger
from edge_agent.cloud.client import CloudAnswer, CloudClient
from edge_agent.errors import CloudBusy, CloudError, CloudRefused, Forbidden
from edge_agent.records.query import Delta, Query, Route, Usage

_TOKENS_PER_MESSAGE = 16
_TOKENS_PER_MEDIUM = 50_000
"""The dearest picture that OpenAI documents: gpt-4o-mini, 2,833 and eight tiles of 5,667."""
_TOKENS_OF_INSTRUCTIONS = 1024
"""Anthropic documents up to 530 before tools, by model (Claude 3 Opus); not of every later one."""
_LOCAL_FIELDS = frozenset(
    {"top_k", "min_p", "repeat_penalty", "grammar", "ignore_eos", "cache_prompt"}
)
"""Extensions of llama-server that OpenAI's API refuses; a cloud never sees them."""


@dataclass(frozen=True, slots=True)
class Assistance:
    """The cloud and the ledger that pays for it."""

    cloud: CloudClient
    ledger: Ledger
    model: str
    max_tokens: int
    """Reserved for an answer whose request sets no limit."""

    async def call(self, query: Query) -> "PaidCall":
        """Reserve and ask; returns when the first content is there.

        Raises BudgetExhausted (nothing was sent) or CloudError (already booked or released), and
        Forbidden for a private query: whoever asks, and why, this is the only way to the cloud.
        """
        if query.private:
            raise Forbidden("a private query never leaves this machine")
        wanted = query.sampling.max_tokens or self.max_tokens
        asked = {k: v for k, v in query.body.items() if k not in _LOCAL_FIELDS}
        body = await asyncio.to_thread(self.cloud.recalled, asked)
        prompt_tokens = prompt_token_bound(body)
        reservation = await asyncio.to_thread(
            self.ledger.reserve,
            query.id,
            model=self.model,
            price=self.cloud.price(self.model, prompt_tokens),
            prompt_tokens=prompt_tokens,
            max_tokens=wanted * query.n,
            hidden_tokens=self.cloud.max_hidden_tokens,
        )
        call = PaidCall(self, reservation)
        try:
            call.answer = await self.cloud.open(
                body,
                endpoint="chat/completions" if query.is_chat else "completions",
                max_tokens=max(1, reservation.max_tokens // query.n),
                patient=query.route is Route.CLOUD or not query.prompt_ids,
            )
        except BaseException as error:
            await asyncio.shield(call.end(error))
            raise
        return call


class PaidCall:
    """An answer on its way from the cloud. Iterate it, then `end` it; ending twice is harmless."""

    def __init__(self, assistance: Assistance, reservation: Reservation) -> None:
        self._assistance = assistance
        self._reservation: Reservation | None = reservation
        self.answer: CloudAnswer | None = None
        self.cost_usd: float | None = None

    @property
    def usage(self) -> Usage | None:
        """As the cloud reported it; None until the end, or if it never did."""
        return self.answer.usage if self.answer else None

    @property
    def beside(self) -> Mapping[str, Mapping[str, Any]]:
        """What was said beside tool calls, as `Outcome.beside`."""
        return self.answer.beside if self.answer else {}

    @property
    def model(self) -> str:
        """The cloud model that answers."""
        return self.answer.model if self.answer else self._assistance.model

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """The answer's pieces. Raises CloudError when it breaks off; the call is then booked."""
        assert self.answer is not None
        try:
            async for delta in self.answer:
                yield delta
        except CloudError as error:
            await self.end(error)
            raise
        await self.end()

    async def end(self, error: BaseException | None = None) -> None:
        """Book or release the reservation and stop the upstream stream."""
        reservation, self._reservation = self._reservation, None
        if reservation is None:
            return
        if self.answer is not None:
            await self.answer.aclose()
        ledger = self._assistance.ledger
        if isinstance(error, CloudError) and not error.sent:
            await asyncio.to_thread(ledger.release, reservation)
        elif isinstance(error, CloudBusy | CloudRefused):
            self.cost_usd = await asyncio.to_thread(ledger.settle, reservation, Usage())
        else:
            usage = self.answer.least_usage if self.answer else None
            if usage is not None and error is not None:
                usage = replace(usage, partial=True)
            self.cost_usd = await asyncio.to_thread(ledger.settle, reservation, usage)


def prompt_token_bound(body: Mapping[str, Any]) -> int:
    """An upper bound of the prompt's tokens in any tokenizer: no token is shorter than a byte.

    A picture or a sound is billed by its size, not by the bytes of its address. Before tools and
    schemas vendors put instructions of their own, which are billed.
    """
    parts: Mapping[str, Any] = {
        k: body[k] for k in ("messages", "prompt", "tools", "response_format") if k in body
    }
    messages = body.get("messages") or ()
    size = len(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    media = sum(
        part.get("type") not in ("text", "refusal")
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )
    instructed = bool(body.get("tools") or body.get("response_format"))
    return (
        size
        + _TOKENS_PER_MEDIUM * media
        + _TOKENS_PER_MESSAGE * (len(messages) + 1)
        + _TOKENS_OF_INSTRUCTIONS * instructed
    )
