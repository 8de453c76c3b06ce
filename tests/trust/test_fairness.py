"""A client that floods the queue delays its own requests, not another's."""

import contextlib
import itertools
import time
from pathlib import Path
from typing import Any

from tests.end_to_end.processes import running
from tests.tiny_gguf import write_tiny_gguf
from tests.trust.test_load import DOORS, ask, begin

FLOOD = 230
QUEUE = 200
NAMED: dict[str, Any] = {
    "/v1/chat/completions": lambda name: {"user": name},
    "/v1/completions": lambda name: {"user": name},
    "/v1/responses": lambda name: {"safety_identifier": name},
    "/v1/messages": lambda name: {"metadata": {"user_id": name}},
}
"""Path → how its API names who asks; Ollama's names nobody, who is one client more."""


def test_one_request_is_served_before_two_hundred_of_another_client(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    environ = {
        "EDGE_AGENT_TRAIN_ENABLED": "false",
        "EDGE_AGENT_ENGINE_SLOTS": "1",
        "EDGE_AGENT_ENGINE_QUEUE": str(QUEUE),
    }
    arguments = ("serve", "--port", "0", "--threads", "1", "--model", str(model))
    with (
        running(*arguments, data_dir=tmp_path, **environ) as daemon,
        contextlib.ExitStack() as stack,
    ):
        # More than there is room for: the queue is full. One client, by whatever door it comes.
        for path in itertools.islice(itertools.cycle(NAMED), FLOOD):
            stack.enter_context(begin(daemon, path, **NAMED[path]("flood")))
        deadline = time.monotonic() + 60
        while daemon.get("/v1/status")["engine"]["waiting"] < QUEUE - 5:
            assert time.monotonic() < deadline
        for path in DOORS:
            assert ask(daemon, path, **NAMED.get(path, lambda _: {})("other")) == 200
        # Order, not time: with one slot, nearly all that came before them is still waiting.
        assert daemon.get("/v1/status")["engine"]["waiting"] > QUEUE / 2
