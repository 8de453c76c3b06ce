"""Rollouts by llama.cpp: the weights that serve, as BF16, with the adapter as it is now."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from edge_agent.engine.engine import Engine
from edge_agent.records.generation import Grammar, Group, ServedModel
from models.llama.memory import drop_mapped_pages
from trainer.learner import Learner
from trainer.policy.export import read_adapter, write_lora


class Sampler:
    """Draws groups from the current policy."""

    def __init__(
        self, engine: Engine, gguf: Path, folder: Path, *, max_tokens: int, window: int = 1
    ) -> None:
        """`folder` is scratch space for the adapter on its way from torch to llama.cpp.

        In a decision window of more than one position rollouts may ask behind the first.
        """
        self.engine = engine
        self._gguf = gguf
        self._folder = folder
        self._max_tokens = max_tokens
        self.window = window
        """It may change between draws."""
        self._loaded = 0

    def load(self, learner: Learner) -> None:
        """Make the learner's adapter the policy that is sampled from."""
        self._loaded += 1
        learner.lora.save(self._folder)
        lora = self._folder / "adapter.gguf"
        write_lora(read_adapter(self._folder, self._gguf), lora)
        served = ServedModel(self._gguf, lora, f"rollout-{self._loaded}")
        asyncio.run(self.engine.activate(served))

    def groups(
        self,
        prompts: Sequence[Sequence[int]],
        count: int,
        *,
        seed: int,
        grammars: Sequence[Grammar | None] = (),
        at_least: int = 0,
    ) -> list[Group]:
        """`count` rollouts of each prompt, sharing its KV, held to its grammar if it has one.

        They may have as many tokens as is set, or `at_least` so many.

        Learner and sampler take turns: each begins without what only the other needs in memory.
        """
        drop_mapped_pages(self._gguf)  # both map it
        try:
            return self.engine.sample_groups(
                prompts,
                count,
                max_tokens=max(self._max_tokens, at_least),
                seed=seed,
                window=self.window,
                grammars=grammars,
            )
        finally:
            self.engine.rest()
            drop_mapped_pages(self._gguf)
