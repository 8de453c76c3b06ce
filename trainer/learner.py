"""The learner: a LoRA adapter on the served weights, and one optimizer step at a time.

Token ids in, figures out. It knows nothing of text, of the log, or of the daemon. The algorithm
is `dagrpo`, its use on one prompt `objective`; this file runs the model under them.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.llama.memory import give_back_freed
from models.llama.threads import ThreadControl
from trainer.errors import TrainerError
from trainer.objective import ESTIMATORS, Episode, Objective, StepFigures
from trainer.policy import weights
from trainer.policy.logprobs import AnswerLogProbs, answer_logprobs
from trainer.policy.lora import LoraModel
from trainer.policy.packing import Answers, Ids, distinct, micro_batches, pack, packed_length
from trainer.policy.settings import LearnerSettings


@dataclass(frozen=True, slots=True)
class Example:
    """One supervised item: a prompt, the answer to give, and how often to ask instead."""

    prompt_ids: Ids
    answer_ids: Ids = ()
    """Empty: the decision alone is taught."""
    p_offload: float | None = None
    """Target probability of the offload token; the answer itself weighs 1 - p_offload. None: the
    decision is not taught, and the answer weighs 1."""


class Learner:
    """Base weights, one adapter, its optimizer, and the promoted adapter as KL reference."""

    def __init__(
        self,
        gguf: Path,
        settings: LearnerSettings,
        *,
        offload_token: int,
        adapter: Path | None = None,
        seed: int = 0,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """Load `gguf`; continue `adapter` (PEFT folder of the promoted one) or start a fresh one.

        `between` is called between micro-batches, so that the trainer can yield to requests.
        Raises GgufError, NotTrainable, TrainerError (the adapter does not fit the model).
        """
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self._threads = ThreadControl(torch.get_num_threads(), pinned=settings.threads is not None)
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(auto if settings.device == "auto" else settings.device)
        self.settings = settings
        self.estimator = ESTIMATORS[settings.estimator]
        self.offload_token = offload_token
        self._between = between
        dtype = weights.faster_dtype(self.device) if settings.dtype == "auto" else settings.dtype
        base, self.layout = weights.load(gguf, getattr(torch, dtype))
        torch.manual_seed(seed)
        self.lora = LoraModel(base.to(self.device), settings.lora, adapter)
        self.optimizer = torch.optim.AdamW(
            self.lora.parameters.values(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self.promoted = None if adapter is None else self.lora.state()
        """A and B that the KL refers to: those of the promoted adapter, if there is one."""

    def step(self, episodes: Sequence[Episode], dual: float) -> StepFigures:
        """Train on one batch of rollouts at price `dual`; figures are those of its first update.

        Raises TrainerError, with the adapter unchanged, if the gradient is not finite.
        """
        count = 0
        if self.settings.kl and self.promoted is not None:
            count = math.ceil(self.settings.kl_share * len(episodes))
        anchors = [
            index
            for index, episode in enumerate(episodes)
            if episode.anchored and episode.teaches != "decision"
        ][:count]
        groups, places = self._needed(episodes, dual, anchors)
        references: dict[int, Tensor] = {}
        if anchors and self.promoted is not None:
            with torch.no_grad(), self.lora.using(self.promoted):
                for place, logp in self._forward([groups[index] for index in anchors]):
                    index = anchors[place]
                    references[index] = logp.spread(places[index]).local_B_G_T[0]
        old: dict[int, Tensor] = {}
        weight = self.settings.kl * len(groups) / max(1, len(references))
        figures: list[StepFigures] = []
        for _ in range(self.settings.updates):
            objective = Objective(self.settings, dual, old, weight)

            def loss(index: int, logp: AnswerLogProbs, objective: Objective = objective) -> Tensor:
                row = logp.spread(places[index])
                return objective.loss(index, episodes[index], row, references.get(index))

            total, grad_norm = self._update(groups, loss)
            figures.append(objective.figures(episodes, total, grad_norm))
        return figures[0]

    def _needed(
        self, episodes: Sequence[Episode], dual: float, anchors: Sequence[int]
    ) -> tuple[list[Answers], list[list[int]]]:
        """What has to be computed, and where each episode's answers stand in it (-1: nowhere).

        Equal answers are computed once; answers that teach nothing (all of advantage 0, or of a
        prompt that teaches the decision alone) not at all, but in the episodes `anchors`, whose KL
        is wanted.
        """
        groups, places = [], []
        for index, episode in enumerate(episodes):
            answers, where = distinct(episode.answers)
            idle = episode.teaches == "decision" or self.estimator.idle(episode, dual)
            if idle and index not in anchors:
                answers, where = [], [-1] * len(where)
            groups.append(Answers(episode.prompt_ids, answers))
            places.append(where)
        return groups, places

    def supervised_step(
        self, examples: Sequence[Example], asking: Callable[[int, float], float] | None = None
    ) -> float:
        """One update towards `examples`; returns the mean loss per prompt before it, in nats.

        The loss is the cross-entropy of the decision plus (1 - p) times the answer's own, given
        that it is local: the likelihood of answering so and asking at rate p. `asking` gives p in
        place of the example's own, from its index and its answer's negative log-likelihood (nats);
        an example that does not teach the decision, or nothing else, is not asked about.
        """
        groups = [
            Answers(example.prompt_ids, [example.answer_ids] if example.answer_ids else [])
            for example in examples
        ]

        def loss(index: int, logp: AnswerLogProbs) -> Tensor:
            answer = logp.local_B_G_T.sum()
            p = examples[index].p_offload
            if p is None:
                return -answer
            if asking is not None and examples[index].answer_ids:
                p = asking(index, -answer.item())
            return -(p * logp.log_p_B[0] + (1 - p) * (logp.log_not_p_B[0] + answer))

        return self._update(groups, loss)[0]

    def use_learning_rate(self, value: float) -> None:
        """From the next update on."""
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def forget_moments(self) -> None:
        """Let the optimizer begin anew, for another objective."""
        self.optimizer.state.clear()

    @torch.no_grad()
    def logprobs(self, groups: Sequence[Answers]) -> list[AnswerLogProbs]:
        """Log-probs of `groups` in their order, without gradient; each has B = 1, its own G, T."""
        found = dict(self._forward(groups))
        return [found[index] for index in range(len(groups))]

    def tensors(self) -> dict[str, Tensor]:
        """Adapter, KL reference and optimizer moments, for a checkpoint."""
        named = {f"adapter.{name}": value for name, value in self.lora.state().items()}
        named |= {f"promoted.{name}": value for name, value in (self.promoted or {}).items()}
        for name, parameter in self.lora.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                named[f"optimizer.{key}.{name}"] = torch.as_tensor(value).clone()
        return named

    def load_tensors(self, named: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave. Raises TrainerError if it does not fit this model."""

        def part(prefix: str) -> dict[str, Tensor]:
            cut = len(prefix)
            return {key[cut:]: value for key, value in named.items() if key.startswith(prefix)}

        self.promoted = None
        if promoted := part("promoted."):
            self.lora.load_state(promoted)
            self.promoted = self.lora.state()
        self.lora.load_state(part("adapter."))
        self.optimizer.state.clear()
        for name, parameter in self.lora.parameters.items():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = named.get(f"optimizer.{key}.{name}")
                if value is not None:
                    device = "cpu" if key == "step" else self.device
                    self.optimizer.state[parameter][key] = value.clone().to(device)

    def _forward(self, groups: Sequence[Answers]) -> Iterator[tuple[int, AnswerLogProbs]]:
        for indices in micro_batches(groups, self.settings.tokens_at_once):
            yield from self._run([groups[i] for i in indices], indices)
            self._between()

    def _run(
        self, groups: Sequence[Answers], indices: Sequence[int]
    ) -> list[tuple[int, AnswerLogProbs]]:
        give_back_freed()  # what the last micro-batch left is in other sizes
        logp = answer_logprobs(
            self.lora.base,
            pack(groups, self.device),
            self.offload_token,
            window=self.settings.window,
            rows_at_once=self.settings.rows_at_once,
        )
        return [(index, logp.row(b, groups[b])) for b, index in enumerate(indices)]

    @contextmanager
    def _paying_threads(self, length: int) -> Iterator[None]:
        """Compute a micro-batch of `length` positions on as many threads as pay now."""
        threads = self._threads.choose("learn", length)
        torch.set_num_threads(threads)
        began = time.perf_counter()
        yield
        self._threads.observe("learn", length, threads, time.perf_counter() - began)

    def _update(
        self, groups: Sequence[Answers], loss: Callable[[int, AnswerLogProbs], Tensor]
    ) -> tuple[float, float]:
        """One optimizer update on the mean of `loss` over `groups`: its value, gradient norm."""
        self.optimizer.zero_grad()
        total = 0.0
        limit = self.settings.tokens_at_once
        for indices in micro_batches(groups, limit):
            batch = [groups[i] for i in indices]
            length = packed_length(batch)
            with self.lora.recomputing(length > limit), self._paying_threads(length):
                rows = self._run(batch, indices)
                part = torch.stack([loss(index, logp) for index, logp in rows]).sum() / len(groups)
                part.backward()  # type: ignore[no-untyped-call]
            total += part.item()
            self._between()
        norm = torch.nn.utils.clip_grad_norm_(
            self.lora.parameters.values(), self.settings.max_grad_norm
        ).item()
        if not torch.isfinite(torch.tensor([norm, total])).all():
            raise TrainerError(
                f"the step's loss ({total}) or gradient ({norm}) is not finite; nothing was "
                "updated. Resume from the last checkpoint with a lower learning rate"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        give_back_freed()
        return total, norm
