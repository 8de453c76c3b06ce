"""The supervised step as it is usually written: transformers and PEFT, padded batches, whole
logits. What our learner is measured against."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from models import catalog

if TYPE_CHECKING:
    from benchmarks.runtime.train_job import Job, Question, Step

_BATCH = 8
_IGNORED = -100


def load(job: "Job") -> tuple[Any, Any]:
    """Model (bf16, dequantized) and tokenizer by transformers' own reading of the GGUF."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    path: Path = catalog.resolve(job.settings.model, job.settings.data_dir).shipped
    where: dict[str, Any] = {"gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        **where,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    return model, tokenizer


def lora_config(job: "Job") -> Any:
    """The shape of our adapters."""
    from peft import LoraConfig

    train = job.settings.train
    modules: Any = list(train.modules) or "all-linear"
    return LoraConfig(r=train.rank, lora_alpha=train.alpha, target_modules=modules)


def supervised(job: "Job") -> "Sequence[Step]":
    """Supervised steps over the same examples as ours."""
    from peft import get_peft_model

    torch.manual_seed(job.seed)
    if job.settings.train.threads is not None:
        torch.set_num_threads(job.settings.train.threads)
    base, tokenizer = load(job)
    model = get_peft_model(base, lora_config(job))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=job.settings.train.warm_start_learning_rate)
    steps: list[Step] = []
    for number in range(1 + job.plan.steps):
        questions = job.questions(job.plan.examples, number)
        rows = [_row(tokenizer, question) for question in questions]
        began = time.perf_counter()
        optimizer.zero_grad()
        for start in range(0, len(rows), _BATCH):
            ids, labels = _padded(rows[start : start + _BATCH], tokenizer.pad_token_id)
            logits = model(input_ids=ids, attention_mask=ids != tokenizer.pad_token_id).logits
            loss = cross_entropy(
                logits[:, :-1].flatten(0, 1).float(),
                labels[:, 1:].flatten(),
                ignore_index=_IGNORED,
                reduction="sum",
            )
            (loss / len(rows)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seconds = time.perf_counter() - began
        tokens = sum(len(prompt) + len(answer) for prompt, answer in rows)
        steps.append(({"whole step": seconds}, {"prompt and answer tokens": tokens / seconds}))
    return steps[1:]


def _row(tokenizer: Any, question: "Question") -> tuple[list[int], list[int]]:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question.text}],
        add_generation_prompt=True,
        return_dict=False,
    )
    answer = tokenizer(question.answer, add_special_tokens=False)["input_ids"]
    return list(prompt), [*answer, tokenizer.eos_token_id]


def _padded(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), _IGNORED)
    for index, (prompt, answer) in enumerate(rows):
        whole = torch.tensor([*prompt, *answer])
        ids[index, : len(whole)] = whole
        labels[index, len(prompt) : len(whole)] = whole[len(prompt) :]
    return ids, labels
