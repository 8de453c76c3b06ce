"""logprobs and top_logprobs are those of the model at temperature 1."""

from functools import partial

import numpy as np
import pytest

from edge_agent.engine.engine import Engine
from edge_agent.engine.sampler import log_sum_exp_without
from edge_agent.records.generation import GenerationRequest, SamplingParams
from tests.edge_agent.engine.engine_harness import OFFLOAD, Reference, ask, prompt_of


async def test_log_probs_equal_the_reference_softmax(engine: Engine, reference: Reference) -> None:
    prompt = prompt_of(70, 30)
    _, [answer] = await ask(
        engine, prompt, temperature=2.0, seed=1, logit_bias={40: 5.0}, top_logprobs=5
    )
    assert [item.token_id for item in answer.logprobs] == answer.ids
    for t, item in enumerate(answer.logprobs):
        row = reference.log_softmax(prompt + answer.ids[:t])
        assert item.logprob == pytest.approx(row[item.token_id], abs=0.01)
        row[OFFLOAD] = -np.inf
        best = np.sort(row)[::-1][:5]
        assert [top.logprob for top in item.top] == pytest.approx(list(best), abs=0.01)
        assert [row[top.token_id] for top in item.top] == pytest.approx(list(best), abs=0.01)


async def test_the_offload_token_is_not_among_the_best(engine: Engine) -> None:
    everything = engine.model.n_vocab
    _, [answer] = await ask(engine, prompt_of(71, 10), top_logprobs=everything)
    for item in answer.logprobs:
        assert OFFLOAD not in {top.token_id for top in item.top}
        assert len({top.token_id for top in item.top}) == everything - 1


async def test_none_unless_asked_and_no_alternatives_for_zero(engine: Engine) -> None:
    _, [silent] = await ask(engine, prompt_of(72, 10))
    _, [own] = await ask(engine, prompt_of(72, 10), top_logprobs=0)
    assert silent.logprobs == []
    assert len(own.logprobs) == len(own.ids)
    assert all(item.top == () for item in own.logprobs)


async def test_tokens_cut_off_by_a_stop_string_have_none(engine: Engine) -> None:
    ask_so = partial(ask, engine, prompt_of(73, 10), temperature=1, seed=1, top_logprobs=0)
    _, [whole] = await ask_so(max_tokens=30)
    texts = [engine.vocabulary.decode([token]) for token in whole.ids]
    at = next(i for i in range(2, 30) if texts[i].isascii() and texts[i] not in texts[:i])
    _, [cut] = await ask_so(max_tokens=30, stop=(texts[at],))
    assert [item.token_id for item in cut.logprobs] == whole.ids[:at]
    assert cut.ids == whole.ids[: at + 1]


async def test_bytes_of_tokens_add_up_to_the_text(smol_engine: Engine) -> None:
    prompt = smol_engine.vocabulary.encode("Emoji: ")
    _, [answer] = await ask(
        smol_engine, prompt, top_logprobs=1, max_tokens=30, gbnf='root ::= "a 😀 b"'
    )
    said = [item for item in answer.logprobs if item.token_id not in _eog(smol_engine)]
    assert b"".join(item.raw for item in said).decode() == answer.text


def _eog(engine: Engine) -> set[int]:
    return {i for i in range(engine.vocabulary.size) if engine.vocabulary.is_eog(i)}


async def test_confidence_is_the_sum_without_the_offload_token(
    engine: Engine, reference: Reference
) -> None:
    prompt = prompt_of(73, 30)
    sampling = SamplingParams(temperature=2.0, seed=1, max_tokens=20, logit_bias={40: 5.0})
    request = GenerationRequest(tuple(prompt), sampling, confidence=True)
    events = [event async for event in engine.submit(request)]
    ids = [token for event in events for token in event.token_ids]
    expected = 0.0
    for t, token in enumerate(ids):
        row = reference.log_softmax(prompt + ids[:t])
        expected += row[token] - np.log1p(-np.exp(row[OFFLOAD]))
    assert sum(event.confidence for event in events) == pytest.approx(expected, abs=0.05)
    plain = engine.submit(GenerationRequest(tuple(prompt), sampling))
    assert {event.confidence async for event in plain} == {0.0}


def test_hand_worked_mass_without_one_token() -> None:
    row = np.log(np.array([1.0, 2.0, 5.0], np.float32))
    assert log_sum_exp_without(row, None) == pytest.approx(np.log(8))
    assert log_sum_exp_without(row, 2) == pytest.approx(np.log(3))
    assert row[2] == pytest.approx(np.log(5))
