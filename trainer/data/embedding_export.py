"""all-MiniLM-L6-v2 as one int8 ONNX file, made once from its published weights.

The graph is written out node by node from the safetensors file: six BERT layers, mean over the
tokens, unit length. That needs neither torch nor transformers, takes seconds, and does not
depend on an exporter's idea of the model. Source of the architecture: Devlin et al. 2019;
pooling: sentence-transformers' modules.json of the model.
"""

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

OPSET = 17  # the first with LayerNormalization
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def export(source: Path, target: Path) -> None:
    """Writes the int8 ONNX file `target` from the folder `source` of a BERT sentence embedder.

    Input: input_ids, int64 [texts, tokens], without padding. Output: embedding, float32
    [texts, width], of unit length.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from safetensors.numpy import load_file

    config = json.loads((source / CONFIG_FILE).read_text())
    graph = _Bert(load_file(source / WEIGHTS_FILE), config)
    full = target.with_suffix(".float.onnx")
    try:
        onnx.save(graph.model(), str(full))
        with _quiet():
            quantize_dynamic(full, target, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        full.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantizer logs every node, and on the root logger."""
    root = logging.getLogger()
    root.addFilter(_drop)
    try:
        yield
    finally:
        root.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return False


class _Bert:
    """Collects nodes and initializers; each method returns the name of its result."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], config: Mapping[str, int]):
        self._weights = weights
        self._layers = config["num_hidden_layers"]
        self._heads = config["num_attention_heads"]
        self._width = config["hidden_size"]
        self._epsilon = float(config["layer_norm_eps"])
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[np.generic]] = {}

    def model(self) -> "onnx.ModelProto":
        """The whole graph."""
        from onnx import TensorProto, helper, numpy_helper

        hidden = self._embeddings()
        for layer in range(self._layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden)
        self._pool(hidden)
        tokens = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["texts", "tokens"])
        embedding = helper.make_tensor_value_info(
            "embedding", TensorProto.FLOAT, ["texts", self._width]
        )
        graph = helper.make_graph(
            self._nodes,
            "sentence_embedder",
            [tokens],
            [embedding],
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 8  # of that opset; newer ones need a newer onnxruntime
        return model

    def _embeddings(self) -> str:
        words = self._node(
            "Gather", [self._weight("embeddings.word_embeddings.weight"), "input_ids"]
        )
        # One segment only, so its row is added to every position's once and for all.
        table = (
            self._weights["embeddings.position_embeddings.weight"]
            + self._weights["embeddings.token_type_embeddings.weight"][0]
        )
        tokens = self._node("Shape", ["input_ids"], start=1, end=2)
        positions = self._node(
            "Slice", [self._constant(table), self._ints([0]), tokens, self._ints([0])]
        )
        return self._norm("embeddings.LayerNorm", self._node("Add", [words, positions]))

    def _layer(self, name: str, hidden: str) -> str:
        attention = f"{name}.attention"
        query = self._split(self._linear(f"{attention}.self.query", hidden), (0, 2, 1, 3))
        key = self._split(self._linear(f"{attention}.self.key", hidden), (0, 2, 3, 1))
        value = self._split(self._linear(f"{attention}.self.value", hidden), (0, 2, 1, 3))
        scores = self._node("MatMul", [query, key])
        scale = self._float(1 / math.sqrt(self._width // self._heads))
        scores = self._node("Mul", [scores, scale])
        mixed = self._node("MatMul", [self._node("Softmax", [scores], axis=-1), value])
        mixed = self._node("Transpose", [mixed], perm=[0, 2, 1, 3])
        mixed = self._node("Reshape", [mixed, self._ints([0, 0, self._width])])
        mixed = self._linear(f"{attention}.output.dense", mixed)
        hidden = self._norm(f"{attention}.output.LayerNorm", self._node("Add", [mixed, hidden]))
        inner = self._gelu(self._linear(f"{name}.intermediate.dense", hidden))
        inner = self._linear(f"{name}.output.dense", inner)
        return self._norm(f"{name}.output.LayerNorm", self._node("Add", [inner, hidden]))

    def _pool(self, hidden: str) -> None:
        total = self._node("ReduceSum", [hidden, self._ints([1])], keepdims=0)
        # The mean's divisor cancels against the norm.
        self._node("LpNormalization", [total], output="embedding", axis=-1, p=2)

    def _split(self, whole: str, turn: Sequence[int]) -> str:
        shape = self._ints([0, 0, self._heads, self._width // self._heads])
        return self._node("Transpose", [self._node("Reshape", [whole, shape])], perm=list(turn))

    def _linear(self, name: str, hidden: str) -> str:
        transposed = np.ascontiguousarray(self._weights[f"{name}.weight"].T)
        product = self._node("MatMul", [hidden, self._constant(transposed)])
        return self._node("Add", [product, self._weight(f"{name}.bias")])

    def _norm(self, name: str, hidden: str) -> str:
        scale, shift = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._node(
            "LayerNormalization", [hidden, scale, shift], axis=-1, epsilon=self._epsilon
        )

    def _gelu(self, hidden: str) -> str:
        error = self._node("Erf", [self._node("Div", [hidden, self._float(math.sqrt(2))])])
        half = self._node("Mul", [hidden, self._float(0.5)])
        return self._node("Mul", [half, self._node("Add", [error, self._float(1.0)])])

    def _node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _weight(self, name: str) -> str:
        self._constants.setdefault(name, self._weights[name])
        return name

    def _constant(self, value: NDArray[np.generic]) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants[name] = value
        return name

    def _ints(self, values: Sequence[int]) -> str:
        return self._constant(np.array(values, dtype=np.int64))

    def _float(self, value: float) -> str:
        return self._constant(np.array(value, dtype=np.float32))
