"""Whatever an OpenAI-compatible server sends, a whole answer arrives whole."""

import asyncio
import json

import pytest

from edge_agent.errors import CloudRefused
from edge_agent.records.query import Usage
from tests.edge_agent.cloud.scripted_server import BODY, DONE, USAGE, WHOLE, chunk, event, head


async def ask(client, body=BODY, **options):
    """Deltas of one answer, and the answer."""
    answer = await client.open(body, max_tokens=100, **options)
    return [delta async for delta in answer], answer


async def test_text_finish_and_usage_pass_through(server, connect):
    server.scripts = [WHOLE]
    deltas, answer = await ask(connect())
    assert "".join(delta.text for delta in deltas) == "Hello world"
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    assert answer.usage == Usage(prompt_tokens=7, completion_tokens=2)
    assert answer.seen_chars == len("Hello world")
    assert server.paths == ["/v1/chat/completions"]


async def test_request_is_the_clients_with_our_model_and_limit(server, connect):
    server.scripts = [WHOLE]
    body = {**BODY, "edge_agent": {"task": "x"}, "max_completion_tokens": 500, "stream": False}
    await ask(connect(api_key="sk-1"), body)
    assert server.requests == [
        {
            "messages": BODY["messages"],
            "model": "big",
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_completion_tokens": 100,
        }
    ]
    assert server.headers[0]["authorization"] == "Bearer sk-1"


@pytest.mark.parametrize(("asked", "sent"), [({}, 100), ({"max_tokens": 9}, 9)])
async def test_max_tokens_is_the_smaller_of_both(server, connect, asked, sent):
    server.scripts = [WHOLE]
    await ask(connect(), {**BODY, **asked})
    assert server.requests[0]["max_tokens"] == sent


async def test_a_model_that_wants_max_completion_tokens_gets_it_from_then_on(server, connect):
    refusal = {"error": {"message": "Use 'max_completion_tokens' instead.", "param": "max_tokens"}}
    no = head("application/json", "400 Bad Request") + json.dumps(refusal).encode()
    server.scripts = [no, WHOLE]
    client = connect()
    await ask(client, {**BODY, "max_tokens": 9})
    await ask(client, {**BODY, "max_tokens": 8})
    fields = [(r.get("max_tokens"), r.get("max_completion_tokens")) for r in server.requests]
    assert fields == [(9, None), (None, 9), (None, 8)]


async def test_a_plain_completion_knows_no_other_field(server, connect):
    no = head("application/json", "400 X") + b'{"error": "use max_completion_tokens"}'
    server.scripts = [no]
    with pytest.raises(CloudRefused):
        await ask(connect(), {"prompt": "x"}, endpoint="completions")
    assert len(server.requests) == 1


async def test_bytes_may_come_one_at_a_time_with_any_line_ends(server, connect):
    stream = (
        b": keep-alive\r\n\r\n"
        + b"event: message\r\nid: 1\r\n"
        + chunk("Grüße 👋").replace(b"\n", b"\r\n")
        + b'data: {"choices": [{"index": 0,\r\ndata: "delta": {"content": " \xe4\xb8\x96"},\n'
        + b'data:"finish_reason": "stop"}]}\r\r'
        + USAGE
        + DONE
    )

    async def dribble(writer):
        writer.write(head())
        for byte in stream:
            writer.write(bytes([byte]))
            await writer.drain()
        writer.write_eof()

    server.scripts = [dribble]
    deltas, answer = await ask(connect())
    assert "".join(delta.text for delta in deltas) == "Grüße 👋 世"
    assert answer.usage == Usage(7, 2)


async def test_an_emoji_cut_in_utf16_halves_is_joined(server, connect):
    halves = rb'data: {"choices":[{"index":0,"delta":{"content":"a\ud83d"}}]}' + b"\n\n"
    halves += rb'data: {"choices":[{"index":0,"delta":{"content":"\udc4bb"}}]}' + b"\n\n"
    server.scripts = [head() + halves + chunk(finish="stop") + DONE]
    deltas, _ = await ask(connect())
    assert "".join(delta.text for delta in deltas) == "a👋b"


async def test_first_piece_arrives_while_the_rest_is_not_yet_sent(server, connect):
    go_on = asyncio.Event()

    async def in_two_parts(writer):
        writer.write(head() + chunk("first"))
        await go_on.wait()
        writer.write(chunk("second", finish="stop") + DONE)

    server.scripts = [in_two_parts]
    answer = await connect().open(BODY, max_tokens=9)
    assert (await anext(answer)).text == "first"
    go_on.set()
    assert [delta.text async for delta in answer] == ["second"]


async def test_a_server_that_ignores_stream_is_understood(server, connect):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "hi", "tool_calls": [call]}
    whole = {
        "model": "big-2026",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
    server.scripts = [head("application/json; charset=utf-8") + json.dumps(whole).encode()]
    (delta,), answer = await ask(connect())
    assert (delta.text, delta.finish_reason) == ("hi", "tool_calls")
    assert delta.tool_calls == ({**call, "index": 0},)
    assert answer.usage == Usage(9, 3, cached_tokens=4)
    assert answer.model == "big-2026"


async def test_plain_completions_have_text_and_legacy_logprobs(server, connect):
    logprobs = {"tokens": ["5"], "token_logprobs": [-0.5], "top_logprobs": [{"5": -0.5, "6": -2}]}
    choice = {"index": 0, "text": "5", "finish_reason": "length", "logprobs": logprobs}
    server.scripts = [head() + event({"choices": [choice]}) + DONE]
    (delta,), _ = await ask(connect(), {"prompt": "2+3="}, endpoint="completions")
    assert server.paths == ["/v1/completions"]
    assert (delta.text, delta.finish_reason) == ("5", "length")
    (token,) = delta.logprobs
    assert (token.token, token.token_id, token.logprob, token.raw) == ("5", -1, -0.5, b"5")
    assert [(t.token, t.logprob) for t in token.top] == [("5", -0.5), ("6", -2.0)]


async def test_chat_logprobs_keep_the_bytes_of_half_a_character(server, connect):
    token = {"token": "\\xe4", "logprob": -1.0, "bytes": [0xE4], "top_logprobs": []}
    choice = {"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [token]}}
    server.scripts = [head() + event({"choices": [choice]}) + chunk(finish="stop") + DONE]
    deltas, _ = await ask(connect())
    assert deltas[0].logprobs[0].raw == b"\xe4"


async def test_choices_refusals_and_unknown_finish_reasons(server, connect):
    refusal = {"choices": [{"index": 1, "delta": {"refusal": "no"}, "finish_reason": "weird"}]}
    rest = chunk("b", index=0, finish="end_turn") + DONE
    server.scripts = [head() + chunk("a", index=0) + event(refusal) + rest]
    deltas, _ = await ask(connect(), {**BODY, "n": 2})
    assert [(d.index, d.text, d.refusal, d.finish_reason) for d in deltas] == [
        (0, "a", None, None),
        (1, "", "no", "stop"),
        (0, "b", None, "stop"),
    ]


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 7}, {"prompt_tokens": -1}])
async def test_usage_that_never_came_or_is_nonsense_is_none(server, connect, usage):
    stream = chunk("x", finish="stop") + event({"choices": [], "usage": usage}) + DONE
    server.scripts = [head() + stream]
    _, answer = await ask(connect())
    assert answer.usage is None


async def test_usage_before_the_last_word_is_only_a_part(server, connect):
    counted = {"usage": {"prompt_tokens": 7, "completion_tokens": 1}}
    early = event({"choices": [{"delta": {"content": "a"}}], **counted})
    server.scripts = [head() + early + chunk("b", finish="stop") + DONE]
    _, answer = await ask(connect())
    assert (answer.usage, answer.least_usage) == (None, Usage(7, 1, partial=True))


async def test_usage_in_every_chunk_counts_up(server, connect):
    def counting(text, tokens, **more):
        usage = {"prompt_tokens": 7, "completion_tokens": tokens}
        return event({"choices": [{"delta": {"content": text}, **more}], "usage": usage})

    stream = counting("a", 1) + counting("b", 2, finish_reason="stop") + DONE
    server.scripts = [head() + stream]
    _, answer = await ask(connect())
    assert answer.usage == Usage(7, 2)


async def test_text_that_was_counted_as_nothing_is_not_booked_as_nothing(server, connect):
    nothing = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 0}})
    server.scripts = [head() + chunk("x", finish="stop") + nothing + DONE]
    _, answer = await ask(connect())
    assert answer.usage is None


async def test_usage_is_awaited_after_the_last_choice_ended(server, connect):
    server.scripts = [head() + chunk("x", finish="stop") + USAGE]
    _, answer = await ask(connect())
    assert answer.usage == Usage(7, 2)


async def test_nothing_is_added_to_a_choice_that_has_ended(server, connect):
    late = chunk("a", finish="length") + chunk("b") + chunk(finish="stop") + USAGE + DONE
    server.scripts = [head() + late]
    deltas, _ = await ask(connect())
    assert [(d.text, d.finish_reason) for d in deltas] == [("a", "length")]


async def test_a_server_that_does_not_hang_up_after_the_end_is_not_waited_for(server, connect):
    async def linger(writer):
        writer.write(WHOLE)

    server.scripts = [linger]
    deltas, answer = await asyncio.wait_for(ask(connect(first_byte_timeout_s=100)), 20)
    assert deltas[-1].finish_reason == "stop"
    assert answer.usage == Usage(7, 2)


async def test_closing_an_answer_hangs_up_at_once(server, connect):
    async def endless(writer):
        writer.write(head() + chunk("x"))

    server.scripts = [endless]
    answer = await connect().open(BODY, max_tokens=9)
    await answer.aclose()
    await asyncio.wait_for(server.hung_up.wait(), 5)
    assert [delta async for delta in answer] == []


async def test_connections_are_reused(server, connect):
    """The end of the body is read, else each answer would cost a new TLS handshake."""
    ports = set()
    body = WHOLE.partition(b"\r\n\r\n")[2]
    framed = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    framed += b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)

    async def keep_alive(reader, writer):
        ports.add(writer.get_extra_info("peername")[1])
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].split("\r\n")[0])
            await reader.readexactly(length)
            writer.write(framed)

    listener = await asyncio.start_server(keep_alive, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    client = connect(url=f"http://127.0.0.1:{port}/v1")
    for _ in range(3):
        await ask(client)
    listener.close()
    assert len(ports) == 1
