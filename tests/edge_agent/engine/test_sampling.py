"""Samplers draw from the distribution they should, and never what is banned."""

import ctypes
import json
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.engine.engine import Engine
from edge_agent.engine.sampler import Exponentials, Penalties, Sampler, biases
from edge_agent.records.generation import SamplingParams
from tests.edge_agent.engine.engine_harness import OFFLOAD, ask, prompt_of

VOCAB = 300


def sampler(seed: int = 0, banned: tuple[int, ...] = (), **params: object) -> Sampler:
    sampling = SamplingParams(**params)
    bias = biases(sampling, banned=banned)
    return Sampler(sampling, seed=seed, bias=bias, weights=Exponentials(VOCAB), prompt=[])


def expected(row: np.ndarray, *, temperature: float, top_k: int, top_p: float, min_p: float):
    """The distribution by the book, float64: top-k, top-p, min-p, then temperature."""
    p = np.exp(row - row.max())
    order = np.argsort(-p, kind="stable")
    if top_k:
        order = order[:top_k]
    q = p[order] / p[order].sum()
    order = order[: int(np.searchsorted(np.cumsum(q), top_p)) + 1]
    order = order[p[order] >= min_p * p.max()]
    result = np.zeros(len(row))
    result[order] = p[order] ** (1 / temperature)
    return result / result.sum()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0.5, 1.0, 1.7]),
    st.sampled_from([0, 1, 5, 40]),
    st.sampled_from([0.1, 0.9, 1.0]),
    st.sampled_from([0.0, 0.05]),
)
def test_log_probs_are_those_of_the_distribution(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    row = np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)
    params = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    draws = sampler(seed, **params)
    distribution = expected(row.astype(np.float64), **params)
    for _ in range(20):
        token = draws.sample(row.copy())
        assert token is not None
        assert distribution[token] > 0
        assert draws.logprob == pytest.approx(np.log(distribution[token]), abs=1e-4)


@pytest.mark.parametrize("truncation", [{}, {"top_k": 20}, {"top_p": 0.8}, {"min_p": 0.02}])
def test_frequencies_follow_the_distribution(truncation: dict[str, float]) -> None:
    row = np.random.default_rng(1).normal(0, 2, VOCAB).astype(np.float32)
    params = {"temperature": 0.9, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **truncation}
    draws = sampler(3, **params)
    n = 20_000
    counts = np.bincount([draws.sample(row.copy()) or 0 for _ in range(n)], minlength=VOCAB)
    distribution = expected(row.astype(np.float64), **params)
    likely = distribution * n > 5
    deviation = (counts - distribution * n)[likely] / np.sqrt(distribution[likely] * n)
    assert np.square(deviation).mean() < 2  # χ² per degree of freedom


@pytest.mark.parametrize("truncation", [{}, {"top_k": 20}, {"top_p": 0.8}])
@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-39, 1e-46, 5e-324])
def test_the_coldest_draws_are_the_likeliest_token(
    temperature: float, truncation: dict[str, float]
) -> None:
    row = np.random.default_rng(4).normal(0, 3, VOCAB).astype(np.float32)
    draws = sampler(temperature=temperature, **truncation)
    with np.errstate(all="raise", under="ignore"):
        assert draws.sample(row.copy()) == row.argmax()
    assert draws.logprob == 0


def llama_chain(*samplers: Any) -> Any:
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for one in samplers:
        llama_cpp.llama_sampler_chain_add(chain, one)
    return chain


def apply(chain: Any, row: np.ndarray) -> dict[int, float]:
    """Logits that llama.cpp's samplers leave, by token."""
    items = (llama_cpp.llama_token_data * len(row))(
        *(llama_cpp.llama_token_data(i, float(x), 0.0) for i, x in enumerate(row))
    )
    array = llama_cpp.llama_token_data_array(items, len(row), -1, False)
    llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
    return {array.data[i].id: array.data[i].logit for i in range(array.size)}


def test_the_same_tokens_survive_as_in_llama_cpp() -> None:
    row = np.random.default_rng(2).normal(0, 2, VOCAB).astype(np.float32)
    chain = llama_chain(
        llama_cpp.llama_sampler_init_top_k(30),
        llama_cpp.llama_sampler_init_top_p(0.9, 1),
        llama_cpp.llama_sampler_init_min_p(0.1, 1),
    )
    survivors = set(apply(chain, row))
    llama_cpp.llama_sampler_free(chain)
    assert len(survivors) not in {1, 30, VOCAB}
    draws = sampler(temperature=3.0, top_k=30, top_p=0.9, min_p=0.1)
    assert {draws.sample(row.copy()) for _ in range(3000)} == survivors


@pytest.mark.parametrize(
    ("repeat", "frequency", "presence"), [(1.3, 0, 0), (1, 0.7, 0), (1, 0, 1.1), (1.5, 0.4, -0.9)]
)
def test_penalties_equal_those_of_llama_cpp(
    repeat: float, frequency: float, presence: float
) -> None:
    row = np.random.default_rng(3).normal(0, 2, VOCAB).astype(np.float32)
    said = [1, 2, 2, 3, 3, 3, *range(100, 130)]
    chain = llama_chain(
        llama_cpp.llama_sampler_init_penalties(VOCAB, 64, repeat, frequency, presence)
    )
    ours = Penalties(
        SamplingParams(
            repeat_penalty=repeat, frequency_penalty=frequency, presence_penalty=presence
        ),
        [],
    )
    for token in said:
        llama_cpp.llama_sampler_accept(chain, token)
        ours.accept(token)
    theirs = apply(chain, row)
    llama_cpp.llama_sampler_free(chain)
    ours.apply(row)
    assert row == pytest.approx([theirs[i] for i in range(VOCAB)], abs=1e-5)


def test_only_the_repeat_penalty_counts_the_prompt_and_forgets_after_64_tokens() -> None:
    every = SamplingParams(repeat_penalty=2.0, frequency_penalty=1.0, presence_penalty=1.0)
    penalties = Penalties(every, prompt=[7, *[8] * 63])
    row = np.ones(VOCAB, np.float32)
    penalties.apply(row)
    assert (row[7], row[8], row[9]) == (0.5, 0.5, 1.0)
    penalties.accept(9)
    row = np.ones(VOCAB, np.float32)
    penalties.apply(row)
    assert (row[7], row[8], row[9]) == (1.0, 0.5, 0.5 - 2.0)


def test_the_banned_are_never_drawn_and_biases_add_up() -> None:
    row = np.zeros(VOCAB, np.float32)
    row[7] = 50
    draws = sampler(banned=(7,), logit_bias={7: 100.0, 8: 4.0, 9: -100.0})
    drawn = [draws.sample(row.copy()) for _ in range(2000)]
    assert 7 not in drawn
    assert 9 not in drawn
    share = np.exp(4) / (np.exp(4) + VOCAB - 3)
    assert drawn.count(8) / 2000 == pytest.approx(share, abs=0.04)


async def test_the_offload_token_is_never_said(engine: Engine) -> None:
    bias = {OFFLOAD: 99.0}
    for more in {}, {"presence_penalty": 0.1}, {"top_k": 3}, {"temperature": 0}:
        params = {"temperature": 1.0, "logit_bias": bias, "max_tokens": 30, **more}
        _, [answer] = await ask(engine, prompt_of(60, 10), **params)
        assert OFFLOAD not in answer.ids


async def test_ignore_eos_goes_on_to_the_end(engine: Engine) -> None:
    eos = engine.vocabulary.eos
    bias = {eos: 99.0}
    _, [ended] = await ask(engine, prompt_of(61, 10), logit_bias=bias)
    assert (ended.ids, ended.text, ended.finish_reason) == ([eos], "", "stop")
    _, [went_on] = await ask(engine, prompt_of(61, 10), logit_bias=bias, ignore_eos=True)
    assert len(went_on.ids) == 8
    assert went_on.finish_reason == "length"


async def test_penalties_discourage_repetition(engine: Engine) -> None:
    prompt = prompt_of(62, 10)
    _, [plain] = await ask(engine, prompt, max_tokens=40, ignore_eos=True)
    assert len(set(plain.ids)) < 40
    for penalty in {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}:
        _, [varied] = await ask(engine, prompt, max_tokens=40, ignore_eos=True, **penalty)
        assert len(set(varied.ids)) == 40
    _, [repeat] = await ask(engine, prompt, max_tokens=40, ignore_eos=True, repeat_penalty=50.0)
    assert not set(repeat.ids) & set(prompt)


async def test_a_grammar_holds_at_any_temperature(smol_engine: Engine) -> None:
    grammar = r'root ::= "{\"name\": \"" [a-zA-Z ]{1,20} "\", \"age\": " [1-9] [0-9]? "}"'
    prompt = smol_engine.vocabulary.encode("Describe a person as JSON: ")
    _, answers = await ask(
        smol_engine, prompt, n=4, gbnf=grammar, temperature=1.5, seed=1, max_tokens=60
    )
    for answer in answers:
        person = json.loads(answer.text)
        assert 1 <= person["age"] <= 99
        assert answer.finish_reason == "stop"


async def test_a_complete_grammar_ends_the_answer_even_without_eos(smol_engine: Engine) -> None:
    prompt = smol_engine.vocabulary.encode("Yes or no? ")
    _, [answer] = await ask(
        smol_engine, prompt, gbnf='root ::= "yes" | "no"', ignore_eos=True, max_tokens=9
    )
    assert answer.text in {"yes", "no"}
    assert answer.finish_reason == "stop"
