"""What a round works with, opened once: model, rollout engine, template, registry, journal."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from edge_agent.budget.ledger import Ledger
from edge_agent.chat import response_format
from edge_agent.chat.answer_form import AnswerForm
from edge_agent.chat.template import ChatTemplate
from edge_agent.config.settings import EngineSettings, Settings
from edge_agent.engine.engine import Engine
from edge_agent.learning.journal import Journal
from edge_agent.log.rows import LONGEST_PROMPT
from edge_agent.records.generation import Grammar, Group, ServedModel
from models import catalog, offload_token
from models.adapters.registry import AdapterRegistry
from models.adapters.version import AdapterVersion
from models.catalog import ResolvedModel
from models.gguf import inspect, model_sha256
from models.llama.memory import keep_little_freed
from models.quantize import quantize
from models.storage import private_dir
from trainer.data import similarity
from trainer.data.answers import forms
from trainer.data.items import Item
from trainer.errors import NotTrainable
from trainer.graders import Graders
from trainer.learner import Learner
from trainer.policy.settings import LearnerSettings, sized
from trainer.workbench.rollouts import Sampler

_SCRATCH = "rollouts-"
_DENSE = "bf16-"
_SLOTS = 32
"""Rollouts drawn at once. Attention walks over the KV of all of them: 64 are no faster."""
_USUAL_PROMPT = 128
"""Tokens."""


def _quiet(_line: str) -> None:
    """For who is told nothing."""


def dense_weights(model: ResolvedModel, folder: Path, told: Callable[[str], None] = _quiet) -> Path:
    """The model's weights as BF16, written to `folder` once: what is learned on and drawn from.

    They are the served weights, rounded as the learner rounds them. llama.cpp draws 32 answers
    at once from BF16 in half the time it takes from Q4_1, and learner and sampler map one file.
    Raises ModelError (no room, cannot be requantized).
    """
    digest = model_sha256(model.path, catalog.hash_cache(model.data_dir))
    path = folder / f"{_DENSE}{digest[:16]}.gguf"
    if not path.exists():
        told("writing its weights as BF16, once for this model")
        for other in (*folder.glob(f"{_DENSE}*.gguf"), *folder.glob(f".{_DENSE}*.part")):
            other.unlink()
        quantize(model.path, path, "BF16")
    return path


def rollout_engine(settings: Settings) -> EngineSettings:
    """KV for what a step draws at once, and for the longest prompt that is trained on."""
    train, served = settings.train, settings.engine
    slots = min(_SLOTS, train.group_size * train.prompts_per_step)
    answers = train.max_new_tokens * (slots + train.group_size)
    prompts = max(LONGEST_PROMPT, train.prompts_per_step * _USUAL_PROMPT)
    return served.model_copy(
        update={
            "slots": slots,
            "queue": 10_000,
            "threads": train.threads,
            "context": min(served.context, prompts + answers),
            "keep_alive_s": 0,
        }
    )


class Workbench:
    """Opened for one round. Use it as a context: leaving it frees the model and the graders."""

    def __init__(self, settings: Settings, told: Callable[[str], None] = _quiet) -> None:
        """`told` hears what takes a while.

        Raises NotTrainable, ModelNotFound, GgufError, OffloadTokenError, StoreError.
        """
        keep_little_freed()
        self.told = told
        told(f"checking the model {settings.model}")
        self.settings = settings
        self.model = catalog.resolve(settings.model, settings.data_dir)
        if not self.model.entry.trainable:
            raise NotTrainable(
                f"{self.model.entry.name} can be served but not trained here: its architecture "
                f"is {self.model.entry.architecture}; `edge-agent models list` shows which can"
            )
        self.train = sized(settings.train, inspect(self.model.path).n_parameters)
        """What the user set, and the rest for a model of this size."""
        self.offload_token = offload_token.verify(self.model.path, self.model.entry.offload_token)
        self.registry = AdapterRegistry(
            settings.data_dir / "adapters", base_sha256=self.model.base_sha256
        )
        self.journal = Journal(settings.database)
        self.rate = self._rate()
        self.work = private_dir(settings.data_dir / "training")
        self.scratch = self._scratch()
        self.weights = dense_weights(self.model, self.work, told)
        told("starting the engine that draws answers")
        self.engine = Engine(
            ServedModel(self.weights), rollout_engine(settings), offload_token=self.offload_token
        )
        self.engine.start()
        self.engine.rest()  # until the first draw: a round begins with learning
        self.chat = ChatTemplate(
            self.model.entry.chat_template,
            self.engine.vocabulary,
            protected=(self.model.entry.offload_token,),
        )
        self.embedder = similarity.LazyEmbedder(settings.data_dir)
        self.graders = Graders(self.embedder, partial=self.train.partial_credit)
        self.form = forms(self.chat, self._check)
        self.sampler = Sampler(
            self.engine,
            self.weights,
            self.scratch,
            max_tokens=self.train.max_new_tokens,
            window=settings.decision.window,
        )

    def _scratch(self) -> Path:
        """Room for the adapter on its way to llama.cpp. What killed trainers left is removed."""
        for folder in self.work.glob(f"{_SCRATCH}*"):
            owner = folder.name.removeprefix(_SCRATCH).partition("-")[0]
            if not (owner.isdecimal() and psutil.pid_exists(int(owner))):
                shutil.rmtree(folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=self.work))

    def forget_rounds_before(self, number: int) -> None:
        """Remove what earlier rounds left: none of them can be resumed once `number` has begun."""
        for folder in (*self.work.glob("round-*"), *self.work.glob("candidate-*")):
            if int(folder.name.partition("-")[2]) < number:
                shutil.rmtree(folder, ignore_errors=True)

    def _rate(self) -> float:
        """τ of training: its own setting, else the budget's rate as it is now."""
        if self.train.rate is not None:
            return self.train.rate
        with Ledger(self.settings.database, seed=self.settings.budget) as ledger:
            rate = ledger.limits().rate
        return 0.3 if rate is None else rate

    def learner(self, parent: AdapterVersion | None, between: Callable[[], None]) -> Learner:
        """A learner that continues `parent`, or begins a fresh adapter."""
        self.told("loading the weights into torch")
        return Learner(
            self.weights,
            LearnerSettings.of(self.train, window=self.settings.decision.window),
            offload_token=self.offload_token,
            adapter=parent.peft if parent else None,
            seed=self.train.seed,
            between=between,
        )

    def rewards(self, item: Item, group: Group) -> list[float]:
        """Task reward of each rollout; one that was cut at the token limit is graded as it is."""
        decode = self.engine.vocabulary.decode
        read = item.form.read
        pairs = [(item, read(decode(rollout.token_ids))) for rollout in group.rollouts]
        return [grade.reward for grade in self.graders.score_many(pairs)]

    def render(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Prompt ids of imported messages, as the daemon would serve them."""
        return AnswerForm().prompt(self.chat, messages)

    @property
    def end_of_turn(self) -> int:
        """The token with which the template ends an answer."""
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        ids = self.chat.encode(turn, add_generation_prompt=False)
        return next(i for i in reversed(ids) if self.engine.vocabulary.is_eog(i))

    def _check(self, grammar: Grammar) -> None:
        if grammar.notation == "gbnf":
            response_format.check(grammar.text, self.engine.vocabulary)
        else:
            self.engine.grammars.prepare(grammar)

    def __enter__(self) -> "Workbench":
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run(self.engine.stop(0))
        self.graders.close()
        self.journal.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
