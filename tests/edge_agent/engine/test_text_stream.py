"""Text comes in whole characters and never takes anything back."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.engine import Engine
from edge_agent.engine.stream import TextStream
from tests.edge_agent.engine.engine_harness import ask

PIECES = st.lists(st.sampled_from([b"a", b"b", b"ab", b"ba", "é".encode(), b"\xe2", b"\x82\xac"]))
STOPS = st.lists(st.sampled_from(["ab", "aab", "b€", "ba", "é", ""]), max_size=3)


@given(PIECES, STOPS)
def test_what_is_said_is_the_text_before_the_first_stop(pieces: list[bytes], stops: list[str]):
    stream = TextStream(tuple(stops))
    said = ""
    for piece in pieces:
        said += stream.push(piece)
        if stream.stopped:
            break
    said += stream.close()

    whole = b"".join(pieces).decode("utf-8", "replace")
    ends = [whole.find(stop) for stop in stops if stop and stop in whole]
    assert said == (whole[: min(ends)] if ends else whole)
    assert stream.stopped == bool(ends)
    if stream.stopped_by is not None:
        assert stream.stopped_by in stops
        assert whole[min(ends) :].startswith(stream.stopped_by)


@given(PIECES)
def test_nothing_is_held_back_without_need(pieces: list[bytes]) -> None:
    stream = TextStream(("aab",))
    said = "".join(stream.push(piece) for piece in pieces)
    if not stream.stopped and pieces and pieces[-1] == "é".encode():
        assert said == b"".join(pieces).decode("utf-8", "replace")


def chat(engine: Engine, text: str) -> list[int]:
    return engine.vocabulary.encode(
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", special=True
    )


async def test_a_stop_string_across_token_borders(smol_engine: Engine) -> None:
    prompt = chat(smol_engine, "What is the capital of France?")
    _, [whole] = await ask(smol_engine, prompt, max_tokens=30)
    assert whole.text == "The capital of France is Paris."
    assert whole.finish_reason == "stop"

    _, [cut] = await ask(smol_engine, prompt, max_tokens=30, stop=("ance is Pa", "zzz"))
    assert cut.text == "The capital of Fr"
    assert cut.finish_reason == "stop"
    assert len(cut.ids) < len(whole.ids)
    assert "".join(event.text for event in cut.events) == cut.text


async def test_characters_of_several_tokens_arrive_whole(smol_engine: Engine) -> None:
    text = "naïve 😀 ≠ 日本"
    assert len(smol_engine.vocabulary.encode("😀")) > 1
    prompt = chat(smol_engine, "Say something")
    _, [answer] = await ask(smol_engine, prompt, max_tokens=60, gbnf=f'root ::= "{text}"')
    assert answer.text == text
    assert answer.finish_reason == "stop"
    assert not any("\ufffd" in event.text for event in answer.events)


async def test_an_answer_cut_inside_a_character_is_still_valid_text(smol_engine: Engine) -> None:
    prompt = chat(smol_engine, "Say something")
    _, [answer] = await ask(smol_engine, prompt, max_tokens=1, gbnf='root ::= "😀"')
    assert answer.finish_reason == "length"
    assert answer.text == "\ufffd"
