"""The merged model that serves scores as the torch model that was trained: within a point."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edge_agent.config.settings import Settings, TrainSettings
from edge_agent.records.generation import ServedModel
from models.adapters.version import LORA, MERGED
from trainer.data.items import Item
from trainer.gate.evaluate import evaluate
from trainer.learner import Learner
from trainer.phases.warm_start import factor, teach
from trainer.policy.export import export
from trainer.workbench.workbench import Workbench

STEPS, EXAMPLES, QUESTIONS, MAX_TOKENS = 110, 16, 200, 8


@pytest.fixture
def bench(tmp_path: Path, smollm2: Path) -> Iterator[Workbench]:
    settings = Settings(
        data_dir=tmp_path, model=str(smollm2), train=TrainSettings(max_new_tokens=MAX_TOKENS)
    )
    with Workbench(settings) as opened:
        yield opened


def sums(bench: Workbench, count: int, seed: int) -> list[Item]:
    """Sums of two digits, no sum twice; another seed's sums are others."""
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    drawn = random.Random(0).sample(pairs, len(pairs))[seed::2][:count]
    found = []
    for a, b in drawn:
        text = f"What is {a} + {b}?"
        found.append(
            Item(
                query_id=text,
                at=0.0,
                prompt_ids=bench.render([{"role": "user", "content": text}]),
                question=text,
                cluster="sums",
                reference=str(a + b),
                reference_source="client",
                grader={"type": "numeric"},
            )
        )
    return found


def taught(bench: Workbench) -> Learner:
    """A learner that can do most sums, so that a small difference would show."""
    learner = bench.learner(None, lambda: None)
    items = sums(bench, STEPS * EXAMPLES, seed=0)
    for step in range(STEPS):
        batch = items[step * EXAMPLES : (step + 1) * EXAMPLES]
        learner.use_learning_rate(2e-3 * factor(step, 0, STEPS))
        teach(bench, learner, batch, lambda _: 0.3)
    return learner


def torch_score(bench: Workbench, learner: Learner, items: list[Item]) -> float:
    """Mean reward of the greedy answers of the learner's own model."""
    rewards = []
    for item in items:
        prompt = torch.tensor([item.prompt_ids])
        with torch.no_grad():
            ids = learner.lora.base.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                suppress_tokens=[bench.offload_token],
                eos_token_id=bench.end_of_turn,
                pad_token_id=bench.end_of_turn,
            )[0, prompt.shape[1] :].tolist()
        answer = [token for token in ids if token != bench.end_of_turn]
        rewards.append(bench.graders.score(item, bench.engine.vocabulary.decode(answer)))
    return sum(rewards) / len(rewards)


def served_score(bench: Workbench, served: ServedModel, items: list[Item]) -> float:
    asyncio.run(bench.engine.activate(served))
    results = evaluate(bench.engine, items, bench.graders, max_tokens=MAX_TOKENS)
    return sum(result.reward_local for result in results) / len(results)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_merged_and_runtime_lora_score_as_torch_does(bench: Workbench, tmp_path: Path) -> None:
    learner = taught(bench)
    items = sums(bench, QUESTIONS, seed=1)
    trained = torch_score(bench, learner, items)
    learner.lora.save(tmp_path / "adapter")
    files = export(tmp_path / "adapter", bench.model.path)
    merged = served_score(bench, ServedModel(files[MERGED], version="merged"), items)
    lora = served_score(bench, ServedModel(bench.model.path, files[LORA], "lora"), items)
    print(f"torch {trained:.4f}, merged {merged:.4f}, runtime LoRA {lora:.4f}")
    assert trained > 0.3, "it must have learnt something to lose"
    assert merged == pytest.approx(trained, abs=0.01)
    assert lora == pytest.approx(trained, abs=0.02)
