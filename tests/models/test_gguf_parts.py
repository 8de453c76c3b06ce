"""A model in parts (`-00001-of-00003.gguf`) is one model: all its tensors, one identity."""

from pathlib import Path

import numpy as np
import pytest

from models.catalog import resolve
from models.errors import GgufError
from models.gguf import inspect, model_sha256
from models.offload_token import usable
from models.quantize import join
from tests.gguf_parts import split


@pytest.fixture
def first(tiny_gguf: Path, tmp_path: Path) -> Path:
    return split(tiny_gguf, tmp_path, 3)


def test_it_has_the_tensors_of_all_its_parts(first: Path, tiny_gguf: Path) -> None:
    whole, found = inspect(tiny_gguf), inspect(first)
    assert [t.name for t in found.tensors] == [t.name for t in whole.tensors]
    assert found.n_parameters == whole.n_parameters
    assert found.quantization == whole.quantization
    assert found.size == sum(part.stat().st_size for part in found.parts) > whole.size
    for part, one in zip(found.tensors, whole.tensors, strict=True):
        assert (
            np.fromfile(part.path, np.uint8, part.n_bytes or 0, offset=part.offset)
            == np.fromfile(one.path, np.uint8, one.n_bytes or 0, offset=one.offset)
        ).all()


def test_a_first_part_without_tensors(tiny_gguf: Path, tmp_path: Path) -> None:
    found = inspect(split(tiny_gguf, tmp_path, 3, no_tensors_first=True))
    assert found.n_tensors == inspect(tiny_gguf).n_tensors


def test_the_offload_token_is_checked_on_the_part_that_has_its_row(
    first: Path, tiny_gguf: Path
) -> None:
    assert usable(first, 5) == usable(tiny_gguf, 5)


def test_joined_it_is_the_file_it_was_cut_from(
    first: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    join(first, tmp_path / "joined.gguf")
    joined, whole = inspect(tmp_path / "joined.gguf"), inspect(tiny_gguf)
    assert joined.parts == ()
    assert {t.name: (t.shape, t.type) for t in joined.tensors} == {
        t.name: (t.shape, t.type) for t in whole.tensors
    }


def test_its_identity_depends_on_every_part(first: Path, tmp_path: Path) -> None:
    before = model_sha256(first)
    assert resolve(str(first), tmp_path).base_sha256 == before
    last = inspect(first).parts[-1]
    raw = bytearray(last.read_bytes())
    raw[-40] ^= 1
    last.unlink()
    last.write_bytes(raw)
    assert model_sha256(first) != before


def test_a_missing_part_is_named(first: Path) -> None:
    gone = inspect(first).parts[1]
    gone.unlink()
    with pytest.raises(GgufError, match=rf"in 3 parts, and {gone.name} is not here"):
        inspect(first)


def test_a_later_part_is_no_model(first: Path) -> None:
    with pytest.raises(GgufError, match="is one of 3 parts of a model: name the first"):
        inspect(first.with_name("parts-00002-of-00003.gguf"))


def test_a_part_of_another_model_does_not_count(first: Path) -> None:
    parts = inspect(first).parts
    parts[2].write_bytes(parts[1].read_bytes()[:])
    with pytest.raises(GgufError, match="its parts have"):
        inspect(first)


def test_a_part_that_is_cut_short_is_named(first: Path) -> None:
    last = inspect(first).parts[-1]
    last.write_bytes(last.read_bytes()[:-64])
    with pytest.raises(GgufError, match=rf"{last.name} is cut short"):
        inspect(first)
