"""A runner: one adapter version, with a context, a KV cache and a scheduler of its own.

llama.cpp sets adapters per context, so requests of two versions never share a batch: each
version has its runner, and runners of one GGUF share its weights.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from edge_agent.config.settings import EngineSettings
from edge_agent.engine.grammar import Grammars
from edge_agent.engine.kv_cache import Reservations
from edge_agent.engine.request import DecodingRules
from edge_agent.engine.scheduler import Scheduler
from edge_agent.engine.speculation import Speculator
from edge_agent.errors import EngineError
from edge_agent.records.generation import Counters, EngineStats, ServedModel
from models.adapters.lora_file import check_lora
from models.errors import AdapterError, ModelError
from models.gguf import inspect
from models.llama.cells import KvCache
from models.llama.context import LlamaContext
from models.llama.memory import drop_mapped_pages, give_back_freed
from models.llama.model import LlamaModel
from models.llama.threads import ThreadControl
from models.prefix_files import PrefixFiles
from models.tuned import llama_cpp_version

_EMBEDDING_BATCH = 128


class Weights:
    """A loaded GGUF and what decoding needs to know of it."""

    def __init__(
        self,
        gguf: Path,
        settings: EngineSettings,
        offload_token: int | None,
        grammars: Grammars | None = None,
    ) -> None:
        """Load. Raises GgufError, or ModelError if the file is missing."""
        self._gpu_layers = settings.gpu_layers
        self.identity = file_identity(gguf)
        self.info = inspect(gguf)
        self.model = self._load(gguf)
        self.context_limit = min(settings.context, self.model.n_ctx_train)
        """Longest prompt + answer of one request, in tokens."""
        self.rules = DecodingRules(self.model, offload_token, self.context_limit, grammars)

    def _load(self, gguf: Path) -> LlamaModel:
        model = LlamaModel(gguf, gpu_layers=self._gpu_layers)
        drop_mapped_pages(gguf)
        return model

    def check_replaces(self, other: "Weights") -> None:
        """Raises ModelError unless these can serve requests that were made for `other`."""
        same = self.context_limit == other.context_limit
        if not same or _shape(self.model) != _shape(other.model):
            raise ModelError(
                f"{self.info.path} is not a version of the model being served: "
                "its vocabulary, width or context differ"
            )

    @property
    def loaded(self) -> bool:
        """False between `close` and `reload`."""
        return self.model.handle is not None

    def close(self) -> None:
        """Free the weights; their runners must be closed or unloaded. Idempotent."""
        self.model.close()

    def reload(self) -> None:
        """Load the file again after `close`. Raises ModelError, also if it is another model now."""
        path = self.model.path
        identity = file_identity(path)
        info = self.info if identity == self.identity else inspect(path)
        model = self._load(path)
        if _shape(model) != _shape(self.model):
            model.close()
            raise ModelError(f"{path} is another model now: start the daemon again to serve it")
        self.identity, self.info, self.model = identity, info, model


def _shape(model: LlamaModel) -> tuple[int, ...]:
    return model.n_vocab, model.n_embd, model.n_ctx_train


@dataclass(frozen=True, slots=True)
class PrefixStore:
    """Where cached prefixes outlive their context: on disk."""

    folder: Path
    limit_mb: float
    template: str
    """Digest of the chat template that prompts are made with."""

    def files(self, runner: "Runner") -> PrefixFiles:
        """Those that `runner` can use."""
        return PrefixFiles(self.folder, [self.template, *runner.key], limit_mb=self.limit_mb)


_FOR_EVER_S = 100 * 365 * 86400.0
"""A century: neither a clock's timeout nor a date has room for any number of seconds."""


class KeepAlive:
    """How long weights and KV that nobody uses are kept."""

    def __init__(self, default_s: float) -> None:
        """`default_s`: seconds; 0 keeps them for ever."""
        self._default_s = default_s or math.inf
        self._limit_s = self._default_s
        self._used_at = time.monotonic()

    def use(self) -> None:
        """They are in use: the time begins again."""
        self._used_at = time.monotonic()

    def limit(self, seconds: float) -> None:
        """Keep them so long, until `reset`: 0 only as long as they are used, inf for ever."""
        self._limit_s = seconds

    def reset(self) -> None:
        """Back to the default."""
        self._limit_s = self._default_s

    @property
    def left_s(self) -> float:
        """Seconds until they are given back, if nobody uses them; inf if that never happens."""
        left_s = max(0.0, self._used_at + self._limit_s - time.monotonic())
        return left_s if left_s < _FOR_EVER_S else math.inf


def file_identity(path: Path) -> tuple[int, ...]:
    """Equal for equal files: device, inode, size, modification time. Raises ModelError."""
    try:
        status = path.stat()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def load_adapter(weights: Weights, lora: Path) -> Any:
    """Handle of a GGUF LoRA. Call it in the engine thread: llama.cpp adds it to the model.

    Raises AdapterError if it is missing, damaged, or made for another model.
    """
    if not lora.is_file():
        raise AdapterError(f"the adapter file {lora} does not exist")
    check_lora(lora, weights.info)
    handle: Any = llama_cpp.llama_adapter_lora_init(weights.model.handle, str(lora).encode())
    if not handle:
        raise AdapterError(
            f"llama.cpp cannot load the adapter {lora}: it is damaged or was made for another model"
        )
    return handle


def free_adapter(handle: Any) -> None:
    """Forget an adapter that no context uses. In the engine thread, as above."""
    llama_cpp.llama_adapter_lora_free(handle)


class Runner:
    """One version being served."""

    def __init__(
        self,
        served: ServedModel,
        weights: Weights,
        adapter: Any,
        settings: EngineSettings,
        counters: Counters,
        *,
        threads: ThreadControl,
        prefixes: PrefixStore | None = None,
    ) -> None:
        """Allocate the context. `adapter` is from `load_adapter`, or None. Raises ModelError.

        prefixes: where cached ones outlive the context.
        """
        self._prefixes = prefixes
        self.version = served.version
        self.weights = weights
        self._lora = served.lora
        self._adapter = adapter
        self._settings = settings
        self._counters = counters
        self._threads = threads
        self.resting = False
        """Without memory for KV and cached prefixes, until `wake`."""
        self.context, self.scheduler = self._open()
        self._embedding: LlamaContext | None = None

    def _open(self) -> tuple[LlamaContext, Scheduler]:
        settings, model = self._settings, self.weights.model
        context = LlamaContext(
            model,
            cells=settings.context,
            batch=max(settings.batch, settings.slots + 32),
            sequences=_sequences(settings.slots),
            threads=self._threads,
            adapter=self._adapter,
        )
        files = None if self._prefixes is None else self._prefixes.files(self)
        scheduler = Scheduler(
            context,
            Reservations(KvCache(context), files),
            self.weights.rules,
            slots=settings.slots,
            batch=settings.batch,
            version=self.version,
            counters=self._counters,
            speculator=Speculator(self._settings.speculate, self._counters),
            prefill_context=lambda: LlamaContext(
                model,
                cells=settings.batch,
                batch=settings.batch,
                sequences=min(settings.slots, llama_cpp.llama_max_parallel_sequences()),
                threads=self._threads,
                adapter=self._adapter,
            ),
        )
        return context, scheduler

    @property
    def key(self) -> list[object]:
        """All that a token's KV depends on, beside the tokens before it."""
        params = llama_cpp.llama_context_default_params()
        lora = None if self._lora is None else (self._lora, *file_identity(self._lora)[2:])
        base = (self.weights.model.path, *self.weights.identity[2:])
        return [base, lora, self.version, params.type_k, params.type_v, llama_cpp_version()]

    def rest(self) -> None:
        """Free the contexts and cached prefixes; no job may be left. Idempotent."""
        self.resting = True
        self._close_contexts()

    def unload(self) -> None:
        """Rest, and free weights and adapter too. No other runner may use the weights."""
        self.rest()
        self._free_adapter()
        self.weights.close()

    def load(self) -> None:
        """Weights and adapter again, where they were unloaded. Raises ModelError."""
        if self.weights.loaded:
            return
        self.weights.reload()
        try:
            if self._lora is not None:
                self._adapter = load_adapter(self.weights, self._lora)
        except BaseException:
            self.weights.close()
            raise

    def wake(self) -> None:
        """Make the context again. Raises ModelError."""
        self.load()
        self.context, self.scheduler = self._open()
        self.resting = False

    def embed(self, prompt: list[int]) -> list[float]:
        """Mean of the last layer's hidden states over `prompt`, at unit length; (n_embd,).

        Raises ModelError.
        """
        self.load()
        if self._embedding is None:
            self._embedding = LlamaContext(
                self.weights.model,
                cells=self.weights.context_limit,
                batch=_EMBEDDING_BATCH,
                sequences=1,
                threads=self._threads,
                adapter=self._adapter,
                embeddings=True,
            )
        context = self._embedding
        context.clear()
        total = np.zeros(self.weights.model.n_embd, np.float64)
        for start in range(0, len(prompt), _EMBEDDING_BATCH):
            part = prompt[start : start + _EMBEDDING_BATCH]
            n = len(part)
            code = context.decode(part, range(start, start + n), [0] * n, [1] * n)
            if code != 0:
                raise EngineError(f"llama.cpp failed on this input (code {code})")
            total += context.embeddings(n).sum(axis=0, dtype=np.float64)
        norm = float(np.linalg.norm(total))
        return [float(x) for x in (total / norm if norm else total)]

    def close(self) -> None:
        """Free contexts, cached prefixes and adapter. Idempotent."""
        self._close_contexts()
        self._free_adapter()

    def _free_adapter(self) -> None:
        if self._adapter is not None:
            free_adapter(self._adapter)
            self._adapter = None

    def _close_contexts(self) -> None:
        self.scheduler.close()
        if self._embedding is not None:
            self._embedding.close()
            self._embedding = None
        self.context.close()


def _sequences(slots: int) -> int:
    """Sequence ids: for slots, and as many parked and cached ones as are cheap to keep."""
    most: int = llama_cpp.llama_max_parallel_sequences()
    return min(most, max(32, 4 * slots))


class Runners:
    """The runner of new requests, and those of older versions until their last request has ended.

    Changed in the engine thread; iterated from any.
    """

    def __init__(self, serving: Runner) -> None:
        self.serving = serving
        self._all = [serving]

    def __iter__(self) -> Iterator[Runner]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def idle(self) -> bool:
        """Nothing is to be computed now."""
        return not any(runner.scheduler.busy for runner in self._all)

    @property
    def have_jobs(self) -> bool:
        """Requests have not ended, whether they compute or wait."""
        return any(runner.scheduler.jobs for runner in self._all)

    def switch(self, runner: Runner) -> None:
        """New requests, and those that have not started, go to `runner`."""
        for job in self.serving.scheduler.drain():
            runner.scheduler.add(job)
        self._all = [*self._all, runner]
        self.serving = runner

    def close_drained(self) -> None:
        """Free the runners of older versions that have nothing left to do."""
        for runner in self._all:
            if runner is not self.serving and not runner.scheduler.jobs:
                self.close(runner)
                give_back_freed()

    def close(self, runner: Runner) -> None:
        """Free a runner, and its weights if no other runner uses them."""
        self._all = [other for other in self._all if other is not runner]
        runner.close()
        if all(other.weights is not runner.weights for other in self._all):
            runner.weights.close()

    def stats(
        self, counters: Counters, *, slots: int, posted: int, unloads_at: float | None
    ) -> EngineStats:
        """A snapshot. `posted` requests are on their way to a scheduler."""
        awake = [runner for runner in self._all if not runner.resting]
        schedulers = [runner.scheduler for runner in awake]
        return EngineStats(
            slots=slots,
            running=sum(len(s.active) for s in schedulers),
            parked=sum(len(s.parked) for s in schedulers),
            waiting=posted + sum(len(s.waiting) + len(s.ready) for s in schedulers),
            kv_cells=sum(runner.context.cells for runner in awake),
            kv_used=sum(s.kv_used for s in schedulers),
            prompt_tokens_total=counters.prompt_tokens,
            cached_tokens_total=counters.cached_tokens,
            generation_tokens_total=counters.generation_tokens,
            prefix_cache_hits_total=counters.prefix_hits,
            decode_batches_total=counters.batches,
            proposed_tokens_total=counters.proposed,
            accepted_tokens_total=counters.accepted,
            version=self.serving.version,
            loaded=self.serving.weights.loaded,
            unloads_at=unloads_at,
        )
