"""A plug-in of `llm` (https://llm.datasette.io): the running daemon's models, found by themselves.

Loaded by `llm` alone, through the entry point of its group; `llm -m edge "What is 17 + 25?"`.
"""

from collections.abc import Callable
from typing import Any

import llm
from llm.default_plugins.openai_models import AsyncChat, Chat

from edge_agent.client.daemon import connect
from edge_agent.config.loading import load
from edge_agent.errors import EdgeAgentError

MODELS = ("edge", "edge-local", "edge-cloud")


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Register the three models where a daemon runs; without one, `llm` goes on without them."""
    try:
        daemon = connect(load().settings)
    except EdgeAgentError:
        return
    headers = {"Authorization": f"Bearer {daemon.api_key}"} if daemon.api_key else None
    for name in MODELS:
        settings: dict[str, Any] = {
            "model_name": name,
            "api_base": f"{daemon.url}/v1",
            "headers": headers,
            "supports_tools": True,
            "supports_schema": True,
        }
        # llm types these in part. Without a need of a key, the user's own of OpenAI stays here.
        kinds: tuple[Any, Any] = (Chat, AsyncChat)
        model, later = (kind(name, **settings) for kind in kinds)
        model.needs_key = later.needs_key = None
        register(model, later)
