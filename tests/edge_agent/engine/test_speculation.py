"""With drafts an answer is what it is without; drafts show in its time alone.

Whether a row has the same bits in a batch of any width is a matter of llama.cpp's kernels. Where
it has here, answers and log-probs must be equal to the last bit; where not, but for near ties.
"""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from edge_agent.chat.guidance import schema_grammar
from edge_agent.engine.engine import Engine
from models.llama.context import LlamaContext
from models.llama.model import LlamaModel
from models.llama.threads import ThreadControl
from tests.edge_agent.engine.engine_harness import Answer, Reference, ask, make_engine, stop
from tests.edge_agent.engine.engine_harness import prompt_of as random_prompt
from tests.edge_agent.engine.tiny_architectures import write_tiny_gemma, write_tiny_mamba

FILE = """def total(items):
    result = 0
    for item in items:
        result += item.price * item.count
    return result
"""
WORDS = "one two three four five six seven eight nine ten"
TEXTS = {
    "copied": FILE * 3 + FILE[:20],
    "quoted": f"<|im_start|>user\nSay this twice, word by word: {WORDS}<|im_end|>\n"
    f"<|im_start|>assistant\n{WORDS[:14]}",
    "prose": "<|im_start|>user\nTell me about the sea.<|im_end|>\n<|im_start|>assistant\n",
}


@pytest.fixture(scope="module", params=["on", "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Iterator[Engine]:
    engine = make_engine(tiny_model, speculate="off")
    yield engine
    stop(engine)


@pytest.fixture(scope="module")
def eager(tiny_model: Path) -> Iterator[Engine]:
    engine = make_engine(tiny_model, speculate="on")
    yield engine
    stop(engine)


def harmed(ids: Sequence[int]) -> list[int]:
    """A prediction of `ids` that is wrong in every seventh token."""
    return [(t + 1) % 256 + 9 if i % 7 == 6 else t for i, t in enumerate(ids)]


def rows_round_alike(path: Path) -> bool:
    """Whether a token's logits have the same bits alone and in a batch of four."""
    model = LlamaModel(path)
    context = LlamaContext(model, cells=64, batch=32, sequences=32, threads=ThreadControl.of(1))
    ids = random_prompt(1, 12)
    try:
        context.decode(ids, range(12), [0] * 12, [0] * 8 + [1] * 4)
        together = context.logits(4).copy()
        for i in range(8, 12):
            context.trim(0, i)
            context.decode(ids[i : i + 1], [i], [0], [1])
            if not np.array_equal(context.logits(1)[0], together[i - 8]):
                return False
        return True
    finally:
        context.close()
        model.close()


def check_same(with_drafts: Answer, without: Answer, *, alike: bool) -> None:
    """Equal; or, where rows do not round alike, up to a choice between two near ties."""
    if alike:
        assert with_drafts.ids == without.ids
        assert with_drafts.text == without.text
        assert with_drafts.logprobs == without.logprobs
        assert with_drafts.finish_reason == without.finish_reason
        return
    for ours, theirs in zip(with_drafts.logprobs, without.logprobs, strict=False):
        assert abs(ours.logprob - theirs.logprob) < 0.5
        if ours.token_id != theirs.token_id:
            best, second = theirs.top[:2]
            assert best.logprob - second.logprob < 0.5
            return
    assert len(with_drafts.logprobs) == len(without.logprobs)


async def test_greedy_answers_of_the_real_model_are_the_same(smollm2: Path, mode: str) -> None:
    alike = rows_round_alike(smollm2)
    answers: dict[str, list[Answer]] = {}
    for speculate in "off", mode:
        engine = make_engine(smollm2, context=1024, batch=128, offload_token=6, speculate=speculate)
        try:
            for text in TEXTS.values():
                ids = engine.vocabulary.encode(text, special=True)
                _, [answer] = await ask(engine, ids, max_tokens=50, top_logprobs=2)
                answers.setdefault(speculate, []).append(answer)
            stats = engine.stats()
        finally:
            await engine.stop(0)
        if speculate == "off":
            assert stats.proposed_tokens_total == 0
        if speculate == "on":
            assert stats.accepted_tokens_total > 30
            assert stats.decode_batches_total < sum(len(a.ids) for a in answers["off"]) - 30
    for ours, theirs in zip(answers[mode], answers["off"], strict=True):
        check_same(ours, theirs, alike=alike)


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0},
        {"temperature": 1},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
        {"temperature": 1, "frequency_penalty": 0.7, "repeat_penalty": 1.2},
        {"temperature": 1, "logit_bias": {40: 3.0, 41: -100}, "min_p": 0.01},
        {"temperature": 1, "gbnf": 'root ::= ("ab" | "cd")+'},
    ],
)
async def test_each_position_is_drawn_as_without(
    plain: Engine, eager: Engine, tiny_model: Path, sampling: dict[str, Any]
) -> None:
    """From the same logits by the same draw: so the distribution is the same, too."""
    alike = rows_round_alike(tiny_model)
    for seed in range(4):
        prompt = random_prompt(seed, 20)
        asked = {"seed": seed, "max_tokens": 60, "top_logprobs": 2, **sampling}
        _, [without] = await ask(plain, prompt, **asked)
        before = eager.stats()
        _, [answer] = await ask(eager, prompt, prediction=harmed(without.ids), **asked)
        after = eager.stats()

        check_same(answer, without, alike=alike)
        accepted = after.accepted_tokens_total - before.accepted_tokens_total
        proposed = after.proposed_tokens_total - before.proposed_tokens_total
        if alike:
            assert accepted > len(answer.ids) / 2
            assert after.decode_batches_total - before.decode_batches_total < len(answer.ids) / 2
        drawn, wasted = answer.events[-1].predicted
        assert (drawn, drawn + wasted) == (accepted, proposed)


async def test_an_answer_ends_inside_a_draft_as_without(plain: Engine, eager: Engine) -> None:
    prompt = random_prompt(50, 20)
    _, [whole] = await ask(plain, prompt, max_tokens=60, ignore_eos=True)
    for ends in (
        {"max_tokens": 13},
        {"max_tokens": 60, "stop": (whole.text[20:23],)},
        {"max_tokens": 60, "stop": (whole.text[20:23], whole.text[18:22])},
    ):
        _, [without] = await ask(plain, prompt, ignore_eos=True, **ends)
        _, [answer] = await ask(eager, prompt, ignore_eos=True, prediction=whole.ids, **ends)
        assert answer.text == without.text
        assert answer.ids == without.ids
        assert answer.finish_reason == without.finish_reason
        assert [e.stopped_by for e in answer.events][-1] == [e.stopped_by for e in without.events][
            -1
        ]
        assert answer.events[-1].predicted[0] > 0


def held(engine: Engine) -> dict[int, tuple[int, int]]:
    """Last position of each sequence: by our count, and by llama.cpp's."""
    context, kv = engine._runner.context, engine._runner.scheduler._memory.kv
    last = llama_cpp.llama_memory_seq_pos_max
    memory = llama_cpp.llama_get_memory(context.handle)
    ids = range(context.sequences)
    return {i: (kv.held[i].done - 1 if i in kv.held else -1, last(memory, i)) for i in ids}


async def test_what_was_not_drawn_leaves_no_cell(tiny_model: Path, reference: Reference) -> None:
    engine = make_engine(tiny_model, speculate="on", context=128, slots=2)
    try:
        for seed in range(12):
            prompt = random_prompt(seed, 30)
            _, [answer] = await ask(engine, prompt, max_tokens=60)
            wrong = harmed(answer.ids)
            _, [again] = await ask(engine, prompt, max_tokens=60, prediction=wrong)
            reference.check_greedy(prompt, again.ids, 60)
            assert again.events[-1].predicted[1] > 0
            assert all(ours == theirs for ours, theirs in held(engine).values())
        assert engine.stats().kv_used <= 128
    finally:
        await engine.stop(0)


async def test_many_clients_get_their_own_answers(tiny_model: Path, reference: Reference) -> None:
    engine = make_engine(tiny_model, speculate="on", slots=8)
    prompts = [random_prompt(seed, 20 + seed) for seed in range(8)]
    try:
        proposed = []
        for crowd in 3, 8:
            before = engine.stats().proposed_tokens_total
            answers = await asyncio.gather(
                *(ask(engine, p, max_tokens=30, ignore_eos=True) for p in prompts[:crowd])
            )
            for prompt, (_, [answer]) in zip(prompts, answers, strict=False):
                reference.check_greedy(prompt, answer.ids, 30)
            proposed.append(engine.stats().proposed_tokens_total - before)
        _, choices = await ask(engine, prompts[0], n=3, max_tokens=30, ignore_eos=True)
        for choice in choices:
            reference.check_greedy(prompts[0], choice.ids, 30)
        assert all(ours == theirs for ours, theirs in held(engine).values())
    finally:
        await engine.stop(0)
    assert proposed[0] > 0
    # Eight that share a batch do not wait for each other's guesses; they begin one by one.
    assert proposed[1] < proposed[0] / 4


async def test_a_repeat_that_must_round_as_before_has_no_drafts(eager: Engine) -> None:
    before = eager.stats().proposed_tokens_total
    prompt = random_prompt(60, 20) * 3
    await ask(eager, prompt, max_tokens=20, cache_prompt=False, prediction=prompt)
    assert eager.stats().proposed_tokens_total == before
    await ask(eager, prompt, max_tokens=20, prediction=prompt)
    assert eager.stats().proposed_tokens_total > before


async def test_rollouts_have_no_drafts(eager: Engine) -> None:
    """A round of training with the same seeds draws the same."""
    prompt, before = random_prompt(70, 12) * 2, eager.stats().proposed_tokens_total
    await asyncio.to_thread(
        eager.sample_groups, [prompt], 3, max_tokens=60, temperature=0.01, seed=5
    )
    assert eager.stats().proposed_tokens_total == before
    await ask(eager, prompt, n=3, max_tokens=60, temperature=0.01, seed=5)
    assert eager.stats().proposed_tokens_total > before


async def test_a_schema_holds_and_its_keys_are_drafts(smollm2: Path) -> None:
    alike = rows_round_alike(smollm2)
    keys = ["house_number_of_the_building", "street_name_without_abbreviations"]
    shape = {
        "type": "object",
        "properties": {key: {"type": "integer", "maximum": 99} for key in keys},
        "required": keys,
        "additionalProperties": False,
    }
    grammar = schema_grammar(shape)
    answers = []
    for speculate in "off", "on":
        engine = make_engine(smollm2, context=512, offload_token=6, speculate=speculate)
        try:
            ids = engine.vocabulary.encode("An address: ")
            _, [answer] = await ask(
                engine, ids, max_tokens=60, grammar=grammar, top_logprobs=2, temperature=1, seed=3
            )
            answers.append(answer)
            accepted = engine.stats().accepted_tokens_total
        finally:
            await engine.stop(0)
    check_same(answers[1], answers[0], alike=alike)
    assert accepted >= 4


@pytest.mark.parametrize("write", [write_tiny_mamba, write_tiny_gemma])
async def test_other_memories(write: Any, tmp_path: Path) -> None:
    """A recurrent state cannot be taken back: no drafts. A sliding window can."""
    path = write(tmp_path / "other.gguf")
    reference, engine = Reference(path), make_engine(path, speculate="on")
    try:
        for seed in range(3):
            prompt = random_prompt(seed, 40) * 2
            _, [answer] = await ask(engine, prompt, max_tokens=40)
            reference.check_greedy(prompt, answer.ids, 40)
            _, [again] = await ask(engine, prompt, max_tokens=40, prediction=harmed(answer.ids))
            reference.check_greedy(prompt, again.ids, 40)
        proposed = engine.stats().proposed_tokens_total
    finally:
        await engine.stop(0)
        reference.close()
    assert (proposed == 0) == (write is write_tiny_mamba)
