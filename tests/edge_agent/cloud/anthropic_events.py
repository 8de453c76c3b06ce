"""Anthropic's answers as bytes, event by event."""

import json
from typing import Any

from tests.edge_agent.cloud.scripted_server import head

SONNET = "claude-sonnet-4-6"


def events(*found: dict[str, Any]) -> bytes:
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in found
    )


def start(**usage: int) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": SONNET}
    return {"type": "message_start", "message": {**message, "content": [], "usage": usage}}


def text(said: str, index: int = 0) -> list[dict[str, Any]]:
    delta = {"type": "text_delta", "text": said}
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": "text"}},
        {"type": "content_block_delta", "index": index, "delta": delta},
        {"type": "content_block_stop", "index": index},
    ]


def end(reason: str, **usage: int) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": delta, "usage": usage},
        {"type": "message_stop"},
    ]


def failure(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def refusal(status: str, kind: str, message: str, extra: str = "") -> bytes:
    body = {**failure(kind, message), "request_id": "req_1"}
    return head("application/json", status, extra) + json.dumps(body).encode()


WHOLE = head() + events(
    start(input_tokens=7, output_tokens=1), *text("Hello"), *end("end_turn", output_tokens=3)
)
