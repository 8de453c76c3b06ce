"""Loading a model: with which of llama.cpp's kernels."""

import llama_cpp
import pytest

from models.llama.model import safe_params


@pytest.mark.parametrize(
    ("features", "extra"),
    [
        (b"CPU : AVX512 = 1 | AVX512_VNNI = 1 | AMX_INT8 = 1 | REPACK = 1 | ", False),
        (b"CPU : AVX512 = 1 | AVX512_VNNI = 1 | REPACK = 1 | ", True),
        (b"CPU : NEON = 1 | AMX_INT8 = 0 | ", True),
    ],
)
def test_no_weights_go_into_buffers_whose_kernels_crash(
    monkeypatch: pytest.MonkeyPatch, features: bytes, extra: bool
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_print_system_info", lambda: features)
    assert safe_params().use_extra_bufts is extra
