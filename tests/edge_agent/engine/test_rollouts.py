"""sample_group: what the trainer learns from is exactly what was sampled."""

import re
from pathlib import Path

import numpy as np
import pytest

from edge_agent.engine.engine import Engine
from edge_agent.errors import ContextLengthExceeded, EngineError, InvalidRequest
from edge_agent.records.generation import Grammar
from tests.edge_agent.engine.engine_harness import OFFLOAD, Reference, make_engine, prompt_of, stop


@pytest.mark.parametrize("temperature", [1.0, 1.6])
def test_log_probs_are_those_of_the_masked_policy(
    engine: Engine, reference: Reference, temperature: float
) -> None:
    prompts = [prompt_of(80, 20), prompt_of(81, 33)]
    groups = engine.sample_groups(prompts, 6, max_tokens=12, temperature=temperature, seed=1)

    for prompt, group in zip(prompts, groups, strict=True):
        assert list(group.prompt_ids) == prompt
        assert len(group.rollouts) == 6  # more than there are slots
        assert len({rollout.token_ids for rollout in group.rollouts}) > 1
        mass = np.exp(reference.log_softmax(prompt)[OFFLOAD])
        assert group.p_offload == pytest.approx(mass, rel=1e-2)
        for rollout in group.rollouts:
            assert len(rollout.token_ids) == len(rollout.logprobs) <= 12
            assert rollout.version == "base"
            for t, (token, logprob) in enumerate(
                zip(rollout.token_ids, rollout.logprobs, strict=True)
            ):
                row = reference.logits([*prompt, *rollout.token_ids[:t]]) / temperature
                row[OFFLOAD] = -np.inf
                row -= row.max()
                assert token != OFFLOAD
                assert logprob == pytest.approx(row[token] - np.log(np.exp(row).sum()), abs=0.01)


def test_a_grammar_holds_its_prompt_and_leaves_the_log_probs_the_models_own(
    engine: Engine, reference: Reference
) -> None:
    prompts = [prompt_of(90, 14), prompt_of(91, 9)]
    grammars = [Grammar("gbnf", 'root ::= ("ab" | "c"){3}'), None]
    held, free = engine.sample_groups(prompts, 8, max_tokens=12, seed=3, grammars=grammars)
    texts = [engine.vocabulary.decode(rollout.token_ids) for rollout in held.rollouts]
    assert all(re.fullmatch("(ab|c){3}", text) for text in texts)
    assert len(set(texts)) > 1
    assert not any(
        re.fullmatch("(ab|c)*", engine.vocabulary.decode(rollout.token_ids))
        for rollout in free.rollouts
    )
    for rollout in held.rollouts:
        for t, (token, logprob) in enumerate(zip(rollout.token_ids, rollout.logprobs, strict=True)):
            row = reference.logits([*prompts[0], *rollout.token_ids[:t]])
            row[OFFLOAD] = -np.inf
            row -= row.max()
            assert logprob == pytest.approx(row[token] - np.log(np.exp(row).sum()), abs=0.01)


def test_in_the_window_a_rollout_may_ask_behind_the_first_position(
    engine: Engine, reference: Reference
) -> None:
    prompt, window = prompt_of(86, 12), 6
    (group,) = engine.sample_groups([prompt], 400, max_tokens=8, seed=5, window=window)
    rollouts = group.rollouts
    assert sum(rollout.token_ids[-1] == OFFLOAD for rollout in rollouts) > 2
    for rollout in rollouts:
        at = [t for t, token in enumerate(rollout.token_ids) if token == OFFLOAD]
        assert at in ([], [len(rollout.token_ids) - 1]), "asking ends it"
        assert all(0 < t < window for t in at)
    asks = [rollout for rollout in rollouts if rollout.token_ids[-1] == OFFLOAD]
    for rollout in (*asks, *rollouts[:4]):
        for t, (token, logprob) in enumerate(zip(rollout.token_ids, rollout.logprobs, strict=True)):
            row = reference.logits([*prompt, *rollout.token_ids[:t]])
            if not 0 < t < window:
                row[OFFLOAD] = -np.inf
            row -= row.max()
            assert logprob == pytest.approx(row[token] - np.log(np.exp(row).sum()), abs=0.01)


def test_the_end_of_turn_is_kept(engine: Engine) -> None:
    eog = {i for i in range(engine.vocabulary.size) if engine.vocabulary.is_eog(i)}
    group = engine.sample_groups([prompt_of(82, 10)], 60, max_tokens=80, temperature=1.0, seed=2)[0]
    ended = [r for r in group.rollouts if r.finish_reason == "stop"]
    cut = [r for r in group.rollouts if r.finish_reason == "length"]
    assert ended
    assert all(r.token_ids[-1] in eog for r in ended)
    assert all(len(r.token_ids) == 80 and not eog & set(r.token_ids) for r in cut)


def test_seeds_reproduce_groups(engine: Engine) -> None:
    prompts = [prompt_of(83, 15), prompt_of(84, 15)]
    first = engine.sample_groups(prompts, 3, max_tokens=8, seed=7)
    second = engine.sample_groups(prompts, 3, max_tokens=8, seed=7)
    alone = engine.sample_groups([prompts[0]], 3, max_tokens=8, seed=7)[0]
    ids = [[r.token_ids for r in group.rollouts] for group in first]
    assert [[r.token_ids for r in group.rollouts] for group in second] == ids
    assert [r.token_ids for r in alone.rollouts] == ids[0]


def test_slots_stay_full_across_prompts(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, context=1024)
    try:
        prompts = [prompt_of(s, 8) for s in range(85, 93)]
        groups = engine.sample_groups(prompts, 2, max_tokens=40, seed=0)
        stats = engine.stats()
    finally:
        stop(engine)
    tokens = sum(len(r.token_ids) for group in groups for r in group.rollouts)
    assert stats.generation_tokens_total == tokens
    assert stats.prompt_tokens_total == 8 * 8
    assert stats.decode_batches_total < 1.35 * tokens / 4


def test_what_cannot_be_sampled_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="temperature"):
        engine.sample_groups([[9]], 2, max_tokens=4, temperature=0.0)[0]
    with pytest.raises(ContextLengthExceeded):
        engine.sample_groups(
            [prompt_of(94, 20), prompt_of(94, engine.context_limit)], 2, max_tokens=9
        )


def test_a_failure_reaches_the_trainer(tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    engine._runner.context.decode = lambda *_: -3  # type: ignore[method-assign]
    try:
        with pytest.raises(EngineError, match="code -3"):
            engine.sample_groups([prompt_of(95, 10)], 2, max_tokens=4)[0]
    finally:
        stop(engine)
