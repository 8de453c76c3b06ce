"""A packed group gives the log-probs and gradients that its sequences give one by one."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trainer.tiny_models import ARCHITECTURES, OFFLOAD_TOKEN, write_tiny
from trainer.policy import weights
from trainer.policy.logprobs import answer_logprobs
from trainer.policy.lora import LoraModel
from trainer.policy.packing import Answers, micro_batches, pack, packed_length, shared_start
from trainer.policy.settings import LoraSettings

SMOLLM2_OFFLOAD = 6


def groups_of(vocabulary: int, seed: int = 0) -> list[Answers]:
    """Groups of unlike prompts, sizes and answer lengths, down to one token."""
    torch.manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(20, vocabulary, (count,)).tolist()

    lengths = [(13, [5, 1, 9]), (4, [2]), (21, [7, 7, 3, 1]), (1, [6, 4])]
    return [Answers(ids(prompt), [ids(n) for n in answers]) for prompt, answers in lengths]


def lora_model(path: Path, dtype: torch.dtype) -> LoraModel:
    base, _ = weights.load(path, dtype)
    torch.manual_seed(0)
    model = LoraModel(base, LoraSettings(rank=4), None)
    for name, parameter in model.parameters.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def naive_logprobs(
    model: LoraModel, group: Answers, answer: Sequence[int], offload: int, window: int = 1
) -> tuple[Tensor, Tensor]:
    """Local log-probs [T] and log p of one unpacked sequence, from all its logits."""
    ids = torch.tensor([[*group.prompt_ids, *answer]])
    logits = model.base(ids).logits[0, len(group.prompt_ids) - 1 : -1].float()
    masked = logits.clone()
    masked[0, offload] = float("-inf")
    masked[window:, offload] = float("-inf")
    chosen = masked.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
    return chosen, logits[0].log_softmax(-1)[offload]


def gradients(model: LoraModel, loss: Tensor) -> Tensor:
    parts = torch.autograd.grad(loss, list(model.parameters.values()))
    return torch.cat([part.flatten() for part in parts])


def compare(
    model: LoraModel, groups: list[Answers], offload: int, atol: float, cosine: float = 0.999
) -> None:
    packed = answer_logprobs(model.base, pack(groups), offload, rows_at_once=7)
    weights_ = torch.linspace(-1, 2, packed.local_B_G_T.numel()).view_as(packed.local_B_G_T)
    packed_loss = (packed.local_B_G_T * weights_).sum() + (packed.log_p_B * 3).sum()
    naive_loss = torch.zeros(())
    for b, group in enumerate(groups):
        for g, answer in enumerate(group.answers):
            local, log_p = naive_logprobs(model, group, answer, offload)
            row = packed.local_B_G_T[b, g]
            torch.testing.assert_close(row[: len(answer)], local, atol=atol, rtol=0)
            assert (row[len(answer) :] == 0).all()
            naive_loss = naive_loss + (local * weights_[b, g, : len(answer)]).sum()
        torch.testing.assert_close(packed.log_p_B[b], log_p, atol=atol, rtol=0)
        total = packed.log_p_B[b].exp() + packed.log_not_p_B[b].exp()
        torch.testing.assert_close(total, torch.ones(()))
        naive_loss = naive_loss + 3 * log_p
    a, b = gradients(model, packed_loss), gradients(model, naive_loss)
    assert torch.cosine_similarity(a, b, dim=0) > cosine
    assert (a - b).norm() < 0.1 * atol**0.5 * b.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_equals_unpacked(tmp_path: Path, architecture: str) -> None:
    model = lora_model(write_tiny(tmp_path / "tiny.gguf", architecture), torch.float32)
    compare(model, groups_of(256), OFFLOAD_TOKEN, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_shared_start_is_computed_once_and_changes_nothing(
    tmp_path: Path, architecture: str
) -> None:
    """The start is longer than gemma's sliding window here; one prompt is a part of another."""
    model = lora_model(write_tiny(tmp_path / "tiny.gguf", architecture), torch.float32)
    start = torch.randint(20, 256, (19,)).tolist()
    groups = [Answers([*start, *group.prompt_ids], group.answers) for group in groups_of(256)]
    groups.append(Answers([*start, 7], [[30, 31, 32]]))
    groups.append(Answers([*start, 7, 8], [[30], [33, 34]]))
    assert shared_start(groups) == len(start)
    assert 0 <= len(pack(groups).ids_N) - packed_length(groups) < 32
    compare(model, groups, OFFLOAD_TOKEN, atol=1e-4)


def test_packed_equals_unpacked_on_smollm2(smollm2: Path) -> None:
    """In bf16 the two differ by rounding: logits of about 16 have steps of 0.06 to 0.125."""
    model = lora_model(smollm2, torch.bfloat16)
    group = Answers(list(range(500, 512)), [[700, 800, 900], [1000, 1100, 1200, 1300]])
    compare(model, [group], SMOLLM2_OFFLOAD, atol=0.3, cosine=0.997)


def test_inside_the_window_the_answer_may_still_ask(tmp_path: Path) -> None:
    model = lora_model(write_tiny(tmp_path / "tiny.gguf", "llama"), torch.float32)
    group = Answers([5, 6, 7], [[8, 9, OFFLOAD_TOKEN], [1, 2, 3, 4, 5]])
    logp = answer_logprobs(model.base, pack([group]), OFFLOAD_TOKEN, window=3)
    for g, answer in enumerate(group.answers):
        expected, _ = naive_logprobs(model, group, answer, OFFLOAD_TOKEN, window=3)
        torch.testing.assert_close(
            logp.local_B_G_T[0, g, : len(answer)], expected, atol=1e-4, rtol=0
        )


def test_a_prompt_without_answers_still_decides(tmp_path: Path) -> None:
    model = lora_model(write_tiny(tmp_path / "tiny.gguf", "qwen2"), torch.float32)
    alone = answer_logprobs(model.base, pack([Answers([5, 6, 7], [])]), OFFLOAD_TOKEN)
    joined = answer_logprobs(model.base, pack([Answers([5, 6, 7], [[1, 2]])]), OFFLOAD_TOKEN)
    torch.testing.assert_close(alone.log_p_B, joined.log_p_B)
    assert alone.mask_B_G_T.sum() == 0


def test_micro_batches_hold_every_group_once_within_the_limit() -> None:
    groups = groups_of(256) * 3
    batches = list(micro_batches(groups, 60))
    assert sorted(index for batch in batches for index in batch) == list(range(len(groups)))
    for batch in batches:
        assert packed_length([groups[i] for i in batch]) <= 60
    assert [len(batch) for batch in micro_batches(groups, 1)] == [1] * len(groups)


def test_recomputing_changes_memory_not_gradients(tmp_path: Path) -> None:
    model = lora_model(write_tiny(tmp_path / "tiny.gguf", "gemma3"), torch.float32)
    found = []
    for on in (False, True):
        with model.recomputing(on):
            logp = answer_logprobs(model.base, pack(groups_of(256)), OFFLOAD_TOKEN)
            found.append(gradients(model, logp.local_B_G_T.sum()))
    torch.testing.assert_close(found[0], found[1])
