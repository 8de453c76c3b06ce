"""Harmed files of the adapter registry: the version is refused, and the one before it serves."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.adapters.registry import AdapterRegistry
from models.errors import AdapterError
from tests.fuzzing import ANY_JSON, examples, harmed

BASE = "b" * 64
FILES = ("adapter.gguf", "merged.gguf", "adapter_model.safetensors", "adapter_config.json")


@pytest.fixture
def registry(tmp_path: Path) -> AdapterRegistry:
    """Two promoted versions; the second serves."""
    files = {}
    for name in FILES:
        files[name] = tmp_path / name
        files[name].write_bytes(name.encode() * 100)
    registry = AdapterRegistry(tmp_path / "adapters", base_sha256=BASE)
    for _ in range(2):
        made = registry.add(
            files, base_model="m", base_sha256=BASE, status="promoted", metrics={"dual": 0.5}
        )
        registry.activate(made.version)
    return registry


def looked_at(registry: AdapterRegistry) -> str | None:
    """What a fresh process would serve; every reader must stand what is there."""
    fresh = AdapterRegistry(registry.root, base_sha256=BASE)
    fresh.versions()
    fresh.pointer()
    for name in ("v0001", "v0002"):
        try:
            found = fresh.verify(name)
        except AdapterError as error:
            assert "\n" not in str(error)
        else:
            found.manifest.metrics.get("dual")
    served = fresh.active()
    return served.version if served is not None else None


@pytest.mark.parametrize("name", FILES)
def test_any_harm_to_a_file_is_refused_by_its_hash(registry: AdapterRegistry, name: str) -> None:
    file = registry.root / "v0002" / name
    whole = file.read_bytes()

    @examples(25)
    @given(harmed(whole))
    def attempt(content: bytes) -> None:
        file.unlink()  # a new inode, as for a file that was written again
        file.write_bytes(content)
        assert looked_at(registry) == ("v0002" if content == whole else "v0001")

    attempt()


def test_any_manifest_is_usable_or_refused(registry: AdapterRegistry) -> None:
    file = registry.root / "v0002" / "manifest.json"
    whole = json.loads(file.read_text())
    changed = st.builds(
        lambda key, value: json.dumps({**whole, key: value}).encode(),
        st.sampled_from([*whole, "unknown"]),
        ANY_JSON | st.lists(st.sampled_from(FILES)) | st.just({"..": "x"}),
    )

    @examples(150)
    @given(changed | harmed(file.read_bytes()) | ANY_JSON.map(lambda v: json.dumps(v).encode()))
    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        assert looked_at(registry) in ("v0001", "v0002")

    attempt()


@pytest.mark.parametrize(
    ("key", "value"),
    [("base_sha256", None), ("files", ["adapter.gguf"]), ("metrics", []), ("created_at", "now")],
)
def test_a_manifest_of_wrong_types_is_refused(
    registry: AdapterRegistry, key: str, value: Any
) -> None:
    file = registry.root / "v0002" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(AdapterError, match=f"v0002 is damaged: manifest.json: {key} has the wrong"):
        registry.get("v0002")
    assert looked_at(registry) == "v0001"


def test_any_pointer_serves_a_version_or_the_base(registry: AdapterRegistry) -> None:
    file = registry.root / "active.json"
    whole = json.loads(file.read_text())
    history = st.lists(st.none() | st.sampled_from(["v0001", "v0002", "v9999", "..", 1]))
    changed = st.builds(
        lambda h, last: json.dumps({**whole, "history": h, "last": last}).encode(),
        history | ANY_JSON,
        ANY_JSON | st.just(float("inf")),
    )

    @examples(150)
    @given(changed | harmed(file.read_bytes()) | st.just(b"[" * 100_000))
    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        assert looked_at(registry) in (None, "v0001", "v0002")

    attempt()
    file.write_text(json.dumps(whole))
    assert looked_at(registry) == "v0002"
