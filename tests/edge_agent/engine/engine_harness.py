"""What the engine's tests share: an independent reference, and readers of generations."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

from edge_agent.config.settings import EngineSettings
from edge_agent.engine.engine import Engine
from edge_agent.engine.stream import Generation
from edge_agent.records.generation import (
    DecisionPoint,
    FinishReason,
    GenerationRequest,
    Grammar,
    SamplingParams,
    ServedModel,
    TokenEvent,
    TokenLogprob,
)
from models.llama.model import LlamaModel

OFFLOAD = 5
"""`<offload>` of the tiny model."""


def make_engine(gguf_path: Path, **changes: Any) -> Engine:
    """A started engine on one thread, with small batches so that prompts are chunked.

    Without drafts, which would make the number of batches a matter of time.
    """
    lora = changes.pop("lora", None)
    version = changes.pop("version", "base")
    offload_token = changes.pop("offload_token", OFFLOAD)
    usual = {"threads": 1, "slots": 4, "context": 512, "batch": 32, "speculate": "off"}
    settings = EngineSettings(**{**usual, **changes})
    engine = Engine(ServedModel(gguf_path, lora, version), settings, offload_token=offload_token)
    engine.start()
    return engine


def stop(engine: Engine) -> None:
    asyncio.run(engine.stop(0))


@dataclass
class Answer:
    """Everything one choice said."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    events: list[TokenEvent] = field(default_factory=list)


async def read(generation: Generation, n: int = 1) -> list[Answer]:
    answers = [Answer() for _ in range(n)]
    async for event in generation:
        answer = answers[event.index]
        assert answer.finish_reason is None, "an event after the last one"
        answer.text += event.text
        answer.ids += event.token_ids
        answer.logprobs += event.logprobs
        answer.finish_reason = event.finish_reason
        answer.events.append(event)
    return answers


async def ask(
    engine: Engine,
    prompt: Sequence[int],
    *,
    n: int = 1,
    client: str = "",
    prediction: Sequence[int] = (),
    **sampling: Any,
) -> tuple[DecisionPoint, list[Answer]]:
    """Submit, and read to the end. `gbnf` is short for a grammar in that notation."""
    if "gbnf" in sampling:
        sampling["grammar"] = Grammar("gbnf", sampling.pop("gbnf"))
    request = GenerationRequest(
        tuple(prompt),
        SamplingParams(**{"max_tokens": 8, "temperature": 0, **sampling}),
        n=n,
        client=client,
        prediction=tuple(prediction),
    )
    generation = engine.submit(request)
    return await generation.decision_point(), await read(generation, n)


async def settled(engine: Engine) -> None:
    """Return when the engine thread has carried out everything posted so far."""
    await asyncio.wrap_future(engine._commands.call(lambda: None))


def prompt_of(seed: int, length: int) -> list[int]:
    """Random bytes as tokens of the tiny model."""
    return [int(t) for t in np.random.default_rng(seed).integers(9, 265, length)]


class Reference:
    """One sequence, one token at a time, straight on llama.cpp."""

    def __init__(self, path: Path, lora: Path | None = None) -> None:
        self.model = LlamaModel(path)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = 512
        params.n_threads = params.n_threads_batch = 1
        adapter = None
        if lora is not None:
            adapter = llama_cpp.llama_adapter_lora_init(self.model.handle, str(lora).encode())
        self.context = llama_cpp.llama_init_from_model(self.model.handle, params)
        if adapter is not None:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
            llama_cpp.llama_set_adapters_lora(
                self.context, adapters, 1, (llama_cpp.ctypes.c_float * 1)(1.0)
            )

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits after `ids`, computed from nothing, float64; (n_vocab,)."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        return self._decode(ids)

    def _decode(self, ids: Sequence[int]) -> np.ndarray:
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        batch = llama_cpp.llama_batch_get_one(tokens, len(ids))
        assert llama_cpp.llama_decode(self.context, batch) == 0
        pointer = llama_cpp.llama_get_logits_ith(self.context, -1)
        row = np.ctypeslib.as_array(pointer, shape=(self.model.n_vocab,))
        return row.astype(np.float64)

    def log_softmax(self, ids: Sequence[int]) -> np.ndarray:
        row = self.logits(ids)
        return row - row.max() - np.log(np.exp(row - row.max()).sum())

    def check_greedy(
        self,
        prompt: Sequence[int],
        ids: Sequence[int],
        count: int,
        banned: Sequence[int] = (OFFLOAD,),
    ) -> None:
        """Assert that `ids` is the greedy answer: `count` tokens, or fewer if it ends itself.

        Each token must be the best one, or tie with it within the noise of batch shapes.
        """
        row = self.logits(prompt)
        for i, token in enumerate(ids):
            row[list(banned)] = -np.inf
            assert row[token] > row.max() - 0.01, f"token {i} of {list(ids)}"
            if llama_cpp.llama_vocab_is_eog(self.model.vocab, token):
                assert i == len(ids) - 1
                return
            row = self._decode([token])
        assert len(ids) == count

    def close(self) -> None:
        llama_cpp.llama_free(self.context)
        self.model.close()


def write_lora(path: Path, model: Path, *, scale: float, seed: int = 0, rank: int = 4) -> Path:
    """A GGUF LoRA on every attn_output of a llama-architecture model; B = 0 for scale 0."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for tensor in gguf.GGUFReader(model).tensors:
        if not tensor.name.endswith("attn_output.weight"):
            continue
        inputs, outputs = (int(n) for n in tensor.shape)
        a = rng.normal(0, 1, (rank, inputs)).astype(np.float32)
        b = (scale * rng.normal(0, 1, (outputs, rank))).astype(np.float32)
        writer.add_tensor(f"{tensor.name}.lora_a", a)
        writer.add_tensor(f"{tensor.name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
