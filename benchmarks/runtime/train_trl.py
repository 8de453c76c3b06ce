"""The same step by TRL's GRPOTrainer: same model, adapter, prompts, group and answer length."""

import tempfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.runtime.train_naive import load, lora_config

if TYPE_CHECKING:
    from benchmarks.runtime.train_job import Job, Step


def grpo(job: "Job") -> "Sequence[Step]":
    """Whole steps, the first of which warms up and is dropped."""
    import datasets
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    plan, train = job.plan, job.settings.train
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    model, tokenizer = load(job)
    questions = job.questions(plan.prompts * (1 + plan.steps), 0)
    rows = [
        {"prompt": [{"role": "user", "content": question.text}], "answer": question.answer}
        for question in questions
    ]
    times: list[float] = []

    class Clock(TrainerCallback):
        """The time of each step: rollout, reward, forward, backward and update."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=_right,
            train_dataset=datasets.Dataset.from_list(rows),
            peft_config=lora_config(job),
            callbacks=[Clock()],
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=plan.prompts * plan.group,
                num_generations=plan.group,
                max_completion_length=plan.new_tokens,
                max_steps=1 + plan.steps,
                learning_rate=train.learning_rate,
                beta=train.kl,
                temperature=1.0,
                use_cpu=not torch.cuda.is_available(),
                bf16=True,
                seed=job.seed,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
        )
        trainer.train()
    seconds = [end - start for start, end in zip(times[::2], times[1::2], strict=True)]
    tokens = plan.prompts * plan.group * plan.new_tokens
    return [
        ({"whole step": each}, {"whole step, answer tokens at most": tokens / each})
        for each in seconds[1:]
    ]


def _right(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """1 where the text is the answer."""
    texts = [completion[0]["content"] for completion in completions]
    return [float(text.strip() == right) for text, right in zip(texts, answer, strict=True)]
