"""Server-sent events as the standard reads them, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cloud.stream import SseDecoder


def decode(pieces: list[bytes]) -> list[str]:
    decoder = SseDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)] + list(decoder.close())


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        # The examples of the standard, and what servers do besides.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", ["YHOO\n+2\n10"]),
        (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n", None),
        (b"data\n\ndata\ndata\n\ndata:", ["", "\n", ""]),
        (b"data:test\n\ndata: test\n\n", ["test", "test"]),
        (b"data: a\r\ndata: b\r\n\r\ndata: c\r\rdata: d", ["a\nb", "c", "d"]),
        (b"\xef\xbb\xbfdata: with BOM\n\n", ["with BOM"]),
        (b"event: ping\nretry: 5\n\n\n\n", []),
        (b"data: a:b: c\n\n", ["a:b: c"]),
    ],
)
def test_events(stream, events):
    expected = ["first event", "second event"] if events is None else events
    assert decode([stream]) == expected
    assert decode([bytes([byte]) for byte in stream]) == expected


LINES = st.sampled_from(
    [b"data: x", b"data:\xc3\xa9\xf0\x9f\x91\x8b", b": c", b"", b"id: 1", b"data"]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(LINES, ENDS), max_size=12), st.data())
def test_where_the_bytes_are_cut_makes_no_difference(lines, data):
    stream = b"".join(line + end for line, end in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(pieces) == decode([stream])


def test_a_line_that_is_not_utf8_raises():
    with pytest.raises(UnicodeDecodeError):
        decode([b"data: \xff\n\n"])
