"""Errors of the agent. Each carries its HTTP status and OpenAI error `type`.

EdgeAgentError (models.errors)
├── InvalidRequest 400           a field is wrong; `param` names it
│   └── ContextLengthExceeded    code context_length_exceeded
├── Unauthorized 401             missing or wrong API key
├── Forbidden 403                foreign Host or Origin
├── NotFound 404                 no such response, decision or model
├── QueueFull 429                every slot and the queue are taken; `retry_after_s`
├── BudgetExhausted 429          a limit of the ledger would be overrun; `retry_after_s`
├── Unavailable 503              loading, or shutting down
├── CloudError 502               the cloud did not answer; `sent` says if money may be gone
│   ├── CloudRefused             it answered with an error that a retry cannot mend
│   ├── CloudBusy                429 or 5xx, retries used up; `retry_after_s` if it said so
│   ├── CloudUnreachable         no connection (name, refused, TLS), nothing was sent
│   ├── CloudTimeout             connect, first byte or total time
│   ├── CloudBroken              stream cut, malformed, or too large
│   └── CloudDown                circuit breaker open, nothing was sent
├── EngineError 500              llama.cpp failed on this request
├── StoreError 500               the database is unreadable, locked, newer than us, or full
└── ConfigError                  a key or value of the configuration is wrong
"""

from models.errors import EdgeAgentError

__all__ = [
    "BudgetExhausted",
    "CloudBroken",
    "CloudBusy",
    "CloudDown",
    "CloudError",
    "CloudRefused",
    "CloudTimeout",
    "CloudUnreachable",
    "ConfigError",
    "ContextLengthExceeded",
    "EdgeAgentError",
    "EngineError",
    "Forbidden",
    "InvalidRequest",
    "NotFound",
    "QueueFull",
    "StoreError",
    "Unauthorized",
    "Unavailable",
]


class InvalidRequest(EdgeAgentError):
    """A field of the request is wrong or unsupported; `param` names it."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer do not fit the context. Nothing is ever truncated silently.

    The message is OpenAI's: LiteLLM, LangChain and others recognise the error by its words. The
    code stands in it because newer versions of OpenAI's SDK show LangChain the message alone.
    """

    def __init__(
        self, limit: int, tokens: int, *, at_least: bool = False, param: str = "messages"
    ) -> None:
        """`limit` tokens of context; the prompt in `param` has `tokens`, or `at_least` as many."""
        self.limit, self.tokens, self.at_least = limit, tokens, at_least
        super().__init__(
            f"This model's maximum context length is {limit} tokens. However, you requested "
            f"{tokens + 1} tokens{' or more' if at_least else ''} ({tokens} in the {param}, "
            f"1 in the completion). Please reduce the length of the {param} "
            "(context_length_exceeded).",
            param=param,
            code="context_length_exceeded",
        )

    def of(self, param: str) -> "ContextLengthExceeded":
        """The same error, where the prompt stands in another field."""
        return type(self)(self.limit, self.tokens, at_least=self.at_least, param=param)


class Unauthorized(EdgeAgentError):
    """The API key is missing or wrong."""

    status = 401
    type = "authentication_error"


class Forbidden(EdgeAgentError):
    """The Host or Origin header is not ours."""

    status = 403
    type = "permission_error"


class NotFound(EdgeAgentError):
    """No such response, decision, model or route."""

    status = 404
    type = "not_found_error"


class QueueFull(EdgeAgentError):
    """Every slot and the whole queue are taken; try again in `retry_after_s` seconds."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, code="queue_full")
        self.retry_after_s = retry_after_s


class BudgetExhausted(EdgeAgentError):
    """A limit of the ledger would be overrun. `limit` names it (e.g. "calls_per_day")."""

    status = 429
    type = "insufficient_quota"

    def __init__(self, message: str, *, limit: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, code="budget_exhausted")
        self.limit = limit
        self.retry_after_s = retry_after_s


class Unavailable(EdgeAgentError):
    """The daemon is loading a model or shutting down."""

    status = 503
    type = "unavailable_error"


class CloudError(EdgeAgentError):
    """The cloud did not answer. `sent` is False only if no byte of the query left this machine."""

    status = 502
    type = "cloud_error"

    def __init__(self, message: str, *, sent: bool, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.sent = sent


class CloudRefused(CloudError):
    """A 4xx (or a redirect) that a retry cannot mend. `for_all`: nor could another query.

    `said` is all that the cloud said, to be read for the field that it refuses.
    """

    def __init__(
        self, message: str, *, sent: bool, for_all: bool = False, said: str | None = None
    ) -> None:
        super().__init__(message, sent=sent)
        self.for_all = for_all
        self.said = said


class CloudBusy(CloudError):
    """429 or 5xx on every try. `retry_after_s` is what the last one asked for, if anything."""

    def __init__(self, message: str, *, sent: bool, retry_after_s: float | None = None) -> None:
        super().__init__(message, sent=sent)
        self.retry_after_s = retry_after_s


class CloudUnreachable(CloudError):
    """No connection: name not found, refused, or TLS failed. Nothing was sent."""


class CloudTimeout(CloudError):
    """No connection, no first byte, or no end in time."""


class CloudBroken(CloudError):
    """The answer was cut, malformed, of the wrong type, or too large."""


class CloudDown(CloudError):
    """The circuit breaker is open; nothing was sent."""


class EngineError(EdgeAgentError):
    """llama.cpp failed on this request; other requests go on."""


class StoreError(EdgeAgentError):
    """The database cannot be opened, read or written."""


class ConfigError(EdgeAgentError):
    """A key or a value of the configuration is wrong."""
