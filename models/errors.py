"""The root of the error tree; `models` is the lowest package, so the root lives here.

EdgeAgentError
├── ModelError
│   ├── ModelNotFound        no such catalog entry, or its file is not on this machine
│   ├── GgufError            not a GGUF, cut short, or an architecture llama.cpp does not know
│   ├── OffloadTokenError    the chosen token cannot carry the offload decision
│   ├── DownloadError        a pull failed; what arrived is kept and resumed
│   └── AdapterError         unknown, damaged or foreign adapter version
└── edge_agent.errors …      requests, budget, cloud, store, configuration
"""

from typing import ClassVar


class EdgeAgentError(Exception):
    """Any error we raise on purpose. `str(error)` says what is wrong and what to do.

    `status` and `type` are the HTTP status and the `type` of OpenAI's error object;
    `param` names the offending field, `code` is machine-readable.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class ModelError(EdgeAgentError):
    """Something is wrong with a model or an adapter on this machine."""


class ModelNotFound(ModelError):
    """No catalog entry of that name, or its file is not on this machine."""

    status = 404
    type = "not_found_error"


class GgufError(ModelError):
    """The file is not a GGUF, is cut short, or has an architecture llama.cpp does not know."""


class OffloadTokenError(ModelError):
    """The token cannot carry the offload decision; the message names usable ones."""


class DownloadError(ModelError):
    """A pull failed. What arrived so far is kept and the next pull resumes it."""


class AdapterError(ModelError):
    """The adapter version is unknown, damaged, or was trained for another model."""
