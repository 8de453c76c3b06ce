"""From recorded reads to times."""

import json

import pytest

from benchmarks.runtime.timings import Load, Timing, read_answer, spread

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(value: object) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def token(text: str) -> bytes:
    return event({"choices": [{"delta": {"content": text}}]})


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


ROLE = event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
USAGE = event(
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
)


def test_the_first_token_is_the_first_text_and_the_end_is_the_last_text():
    pieces = [
        (10.1, HEAD + chunk(ROLE)),
        (10.5, chunk(token("a"))),
        (10.7, chunk(token("b"))),
        (11.0, chunk(token("c"))),
        (19.0, chunk(USAGE + b"data: [DONE]\n\n") + b"0\r\n\r\n"),
    ]
    timing = read_answer(10.0, pieces)
    assert timing.error is None
    assert timing.text == "abc"
    assert timing.ttft_s == pytest.approx(0.5)
    assert timing.e2e_s == pytest.approx(1.0)
    assert timing.gaps_s == pytest.approx([0.2, 0.3])
    assert timing.tpot_s == pytest.approx(0.5 / 2)
    assert (timing.prompt_tokens, timing.cached_tokens, timing.completion_tokens) == (9, 4, 3)


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_reads_may_break_off_anywhere(size: int):
    raw = HEAD + chunk(ROLE + token("hé")) + chunk(token("llo")) + chunk(USAGE) + b"0\r\n\r\n"
    pieces = [(float(i), raw[i : i + size]) for i in range(0, len(raw), size)]
    timing = read_answer(-1.0, pieces)
    assert timing.text == "héllo"
    assert timing.completion_tokens == 3
    end_of_first = raw.index(chunk(token("llo"))) - 1
    assert timing.arrivals[0] == pytest.approx(end_of_first // size * size)


def test_a_body_without_chunks_is_read_too():
    head = HEAD.replace(b"transfer-encoding: chunked\r\n", b"")
    timing = read_answer(0.0, [(1.0, head + token("a")), (2.0, token("b"))])
    assert timing.arrivals == (1.0, 2.0)
    assert timing.completion_tokens == 2


def test_what_goes_wrong_is_an_error_of_that_request_alone():
    refused = read_answer(0.0, [(1.0, b"HTTP/1.1 429 Too Many\r\n\r\n" + b'{"error": "full"}')])
    assert "429" in refused.error
    assert "full" in refused.error
    failed = read_answer(0.0, [(1.0, HEAD + chunk(token("a") + event({"error": {"code": 5}})))])
    assert "5" in failed.error
    assert read_answer(0.0, [(1.0, HEAD + chunk(ROLE))]).error == "an answer without text"
    assert read_answer(0.0, []).error.startswith("no answer")
    load = Load((Timing(0, 2, (1.0, 2.0), completion_tokens=2), refused), seconds=2.0)
    assert len(load.good) == 1
    assert load.errors == (refused.error,)
    assert load.tokens_per_second == 1.0


def test_percentiles_are_interpolated():
    found = spread([1.0, 2.0, 3.0, 4.0, 10.0])
    assert found["mean"] == pytest.approx(4.0)
    assert found["p50"] == pytest.approx(3.0)
    assert found["p95"] == pytest.approx(4 + 0.8 * 6)
    assert found["p99"] == pytest.approx(4 + 0.96 * 6)


def test_gaps_are_pooled_over_requests_and_the_others_are_one_for_each():
    first = Timing(0, 3, (1.0, 2.0, 3.0), completion_tokens=3)
    second = Timing(0, 9, (4.0, 9.0), completion_tokens=2)
    summary = Load((first, second), seconds=9).summary()
    assert summary["itl"]["mean"] == pytest.approx((1 + 1 + 5) / 3)
    assert summary["tpot"]["mean"] == pytest.approx((1 + 5) / 2)
    assert summary["ttft"]["p50"] == pytest.approx(2.5)
    assert "tpot" not in Load((Timing(0, 1, (1.0,), completion_tokens=1),), 1).summary()
