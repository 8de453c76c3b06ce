"""OpenAI's predicted outputs on the real small model: what came true is counted."""

import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server.serve_process import running

ASK: dict[str, Any] = {
    "model": "edge-local",
    "messages": [{"role": "user", "content": "Describe a harbour at night."}],
    "temperature": 0,
    "max_tokens": 24,
}


def test_a_prediction_that_comes_true_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_AGENT_ENGINE_SPECULATE", "on")
    with (
        running(tmp_path) as daemon,
        openai.OpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0) as sdk,
    ):
        plain = sdk.chat.completions.create(**ASK)
        text = plain.choices[0].message.content
        parts = [{"type": "text", "text": text[:20]}, {"type": "text", "text": text[20:]}]
        for content in text, parts:
            prediction: Any = {"type": "content", "content": content}
            answer = sdk.chat.completions.create(**ASK, prediction=prediction)
            said = answer.choices[0].message.content
            details = answer.usage.completion_tokens_details
            assert details.accepted_prediction_tokens > 12
            assert details.accepted_prediction_tokens < answer.usage.completion_tokens == 24
            assert said == text
        *_, last = sdk.chat.completions.create(
            **ASK, prediction=prediction, stream=True, stream_options={"include_usage": True}
        )
        assert last.usage.completion_tokens_details.accepted_prediction_tokens > 12
        with urllib.request.urlopen(daemon.url + "/metrics", timeout=30) as metrics:  # noqa: S310
            lines = dict(line.rsplit(" ", 1) for line in metrics.read().decode().splitlines())
    drawn = float(lines["spec_decode_accepted_tokens_total"])
    assert 36 < drawn <= float(lines["spec_decode_draft_tokens_total"])


def test_a_prediction_without_text_is_no_error(tmp_path: Path) -> None:
    with (
        running(tmp_path) as daemon,
        openai.OpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0) as sdk,
    ):
        for prediction in ({"type": "content", "content": []}, {"content": None}, {}):
            odd: Any = prediction
            answer = sdk.chat.completions.create(**{**ASK, "max_tokens": 2}, prediction=odd)
            assert answer.usage.completion_tokens == 2
