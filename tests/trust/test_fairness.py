"""A client that floods the queue delays its own requests, not another's."""

import contextlib
import time
from pathlib import Path

from tests.end_to_end.processes import running
from tests.tiny_gguf import write_tiny_gguf
from tests.trust.test_load import ask, stream

FLOOD = 230
QUEUE = 200


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
        for _ in range(FLOOD):  # more than there is room for: the queue is full
            stack.enter_context(stream(daemon, user="flood"))
        deadline = time.monotonic() + 60
        while daemon.get("/v1/status")["engine"]["waiting"] < QUEUE - 5:
            assert time.monotonic() < deadline
        assert ask(daemon, user="other") == 200
        # Order, not time: with one slot, nearly all that came before it is still waiting.
        assert daemon.get("/v1/status")["engine"]["waiting"] > QUEUE / 2
