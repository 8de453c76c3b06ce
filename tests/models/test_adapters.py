"""The adapter registry: versions, the pointer, damage, and the way back."""

import json
from pathlib import Path

import pytest

from models.adapters.registry import AdapterRegistry, AdapterVersion
from models.errors import AdapterError

BASE = "b" * 64


@pytest.fixture
def registry(tmp_path: Path) -> AdapterRegistry:
    return AdapterRegistry(tmp_path / "adapters", base_sha256=BASE, clock=lambda: 1_700_000_000.0)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    path = tmp_path / "trained.gguf"
    path.write_bytes(b"low rank")
    return path


def make(registry: AdapterRegistry, lora: Path, **manifest: object) -> AdapterVersion:
    values = {"base_model": "m", "base_sha256": BASE, **manifest}
    return registry.add({"adapter.gguf": lora}, **values)  # type: ignore[arg-type]


def test_a_version_holds_its_files_and_says_where_it_comes_from(
    registry: AdapterRegistry, lora: Path
) -> None:
    files = dict.fromkeys(("adapter.gguf", "merged.gguf", "adapter_config.json"), lora)
    files["adapter_model.safetensors"] = lora
    made = registry.add(
        files, base_model="m", base_sha256=BASE, round=3, metrics={"joint_accuracy": 0.9}
    )
    assert made == registry.get("v0001")
    assert made.gguf_lora == made.path / "adapter.gguf"
    assert made.merged == made.path / "merged.gguf"
    assert made.peft == made.path
    assert made.gguf_lora.read_bytes() == b"low rank"
    assert (made.manifest.round, made.manifest.parent) == (3, None)
    assert (made.manifest.status, made.manifest.created_at) == ("candidate", 1_700_000_000.0)
    assert made.manifest.metrics == {"joint_accuracy": 0.9}
    assert {path.stat().st_mode & 0o777 for path in made.path.iterdir()} == {0o600}
    assert registry.root.stat().st_mode & 0o777 == 0o700
    only = make(registry, lora, parent="v0001")
    assert (only.merged, only.peft, only.manifest.parent) == (None, None, "v0001")


def test_nothing_is_active_at_first_and_activation_is_seen_by_others(
    registry: AdapterRegistry, lora: Path
) -> None:
    poller = AdapterRegistry(registry.root, base_sha256=BASE)
    assert poller.active() is None
    assert poller.versions() == []
    first, second = make(registry, lora), make(registry, lora)
    assert poller.active() is None
    assert registry.activate("v0002") == second
    assert poller.active() == second
    registry.activate("v0001")
    assert poller.active() == first
    registry.activate(None)
    assert poller.active() is None
    assert [item.version for item in poller.versions()] == ["v0001", "v0002"]


def test_rollback_walks_back_to_the_base(registry: AdapterRegistry, lora: Path) -> None:
    first = make(registry, lora)
    make(registry, lora)
    registry.activate("v0001")
    registry.activate("v0002")
    registry.activate("v0002")  # twice the same is one step
    assert registry.rollback() == first
    assert registry.active() == first
    assert registry.rollback() is None
    assert registry.active() is None
    with pytest.raises(AdapterError, match="nothing to roll back to"):
        registry.rollback()


@pytest.mark.parametrize("damage", ["changed", "missing", "manifest", "folder"])
def test_a_damaged_active_version_falls_back_and_says_so(
    registry: AdapterRegistry, lora: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = make(registry, lora), make(registry, lora)
    registry.activate("v0001")
    registry.activate("v0002")
    assert registry.active() == second
    if damage == "changed":
        (second.path / "adapter.gguf").write_bytes(b"low rang")
    elif damage == "missing":
        (second.path / "adapter.gguf").unlink()
    elif damage == "manifest":
        (second.path / "manifest.json").write_text("{}")
    else:
        second.path.rename(second.path.with_name("elsewhere"))
    for _poll in range(3):
        assert registry.active() == first
    assert caplog.text.count("serving adapter v0001 in place of v0002") == 1
    with pytest.raises(AdapterError, match="v0002"):
        registry.verify("v0002")
    with pytest.raises(AdapterError, match="v0002"):
        registry.activate("v0002")
    with pytest.raises(AdapterError, match="is active"):
        registry.remove("v0001")
    (first.path / "adapter.gguf").write_bytes(b"")
    assert registry.active() is None


def test_rollback_skips_what_is_damaged_or_rejected(registry: AdapterRegistry, lora: Path) -> None:
    first, second, _third, _fourth = (make(registry, lora) for _ in range(4))
    for name in ("v0001", "v0002", "v0003", "v0004"):
        registry.activate(name)
    (second.path / "adapter.gguf").write_bytes(b"")
    registry.set_status("v0003", "rejected", reason="worse")
    assert registry.rollback() == first


def test_a_foreign_version_is_refused(registry: AdapterRegistry, lora: Path) -> None:
    foreign = make(registry, lora, base_model="other", base_sha256="c" * 64)
    with pytest.raises(AdapterError, match="trained for other"):
        registry.activate(foreign.version)
    AdapterRegistry(registry.root).activate(foreign.version)  # a registry bound to no model
    assert registry.active() is None  # the model was changed under an active adapter


def test_the_gate_s_verdict_is_kept_and_binds(registry: AdapterRegistry, lora: Path) -> None:
    make(registry, lora, metrics={"a": 1})
    marked = registry.set_status("v0001", "rejected", reason="forgot a task", metrics={"b": 2})
    assert registry.get("v0001") == marked
    assert marked.manifest.metrics == {"a": 1, "b": 2}
    with pytest.raises(AdapterError, match="rejected: forgot a task"):
        registry.activate("v0001")


def test_force_serves_a_rejected_version_as_any_other(
    registry: AdapterRegistry, lora: Path
) -> None:
    first, second, third = (make(registry, lora) for _ in range(3))
    registry.activate(first.version)
    registry.set_status(second.version, "rejected", reason="forgot a task")
    daemon = AdapterRegistry(registry.root, base_sha256=BASE)
    forced = registry.activate(second.version, force=True)
    assert forced == registry.get(second.version) == daemon.active()
    assert forced is not None
    assert forced.manifest.status == "promoted"
    assert forced.manifest.reason == "activated by the user; it was rejected: forgot a task"
    registry.activate(third.version)
    assert registry.rollback() == forced, "it is gone back to"
    registry.remove(third.version)
    (registry.root / "active.json").write_text("torn")
    assert registry.repair() == ["active.json was damaged; it points at v0002 now"]
    assert daemon.active() == forced
    registry.activate(None)
    assert registry.activate(second.version) == forced, "without force, from now on"


def test_force_changes_nothing_of_a_version_that_was_not_rejected(
    registry: AdapterRegistry, lora: Path
) -> None:
    made = make(registry, lora, status="promoted", reason="better")
    assert registry.activate(made.version, force=True) == made
    assert registry.activate(None, force=True) is None


@pytest.mark.parametrize("fault", ["damaged", "foreign"])
def test_force_does_not_serve_what_cannot_be_served(
    registry: AdapterRegistry, lora: Path, fault: str
) -> None:
    base = BASE if fault == "damaged" else "c" * 64
    made = make(registry, lora, status="rejected", base_sha256=base)
    if fault == "damaged":
        (made.path / "adapter.gguf").write_bytes(b"low rang")
    with pytest.raises(AdapterError, match="is damaged" if fault == "damaged" else "trained for"):
        registry.activate(made.version, force=True)
    assert registry.pointer() is None
    assert registry.get(made.version) == made


def test_removal_spares_the_active_one_and_numbers_are_not_used_again(
    registry: AdapterRegistry, lora: Path
) -> None:
    make(registry, lora)
    make(registry, lora)
    registry.activate("v0001")
    registry.activate("v0002")
    with pytest.raises(AdapterError, match="v0002 is active"):
        registry.remove("v0002")
    registry.remove("v0001")
    assert registry.rollback() is None  # what was removed is not gone back to
    registry.remove("v0002")
    assert registry.versions() == []
    assert make(registry, lora).version == "v0003"
    with pytest.raises(AdapterError, match="no adapter version v0001; there are: v0003"):
        registry.remove("v0001")


@pytest.mark.parametrize("name", ["..", "v1", "v0001/..", "", "V0001", "v0001\n", "base"])
def test_a_version_s_name_cannot_leave_the_folder(registry: AdapterRegistry, name: str) -> None:
    for call in (registry.get, registry.verify, registry.activate, registry.remove):
        with pytest.raises(AdapterError, match="is not an adapter version"):
            call(name)


@pytest.mark.parametrize("name", ["../adapter.gguf", "manifest.json", ".hidden", "a/b"])
def test_files_stay_in_their_version(registry: AdapterRegistry, lora: Path, name: str) -> None:
    with pytest.raises(AdapterError, match="cannot be a file"):
        registry.add({"adapter.gguf": lora, name: lora}, base_model="m", base_sha256=BASE)
    with pytest.raises(AdapterError, match=r"needs adapter\.gguf or merged"):
        registry.add({name: lora}, base_model="m", base_sha256=BASE)


def test_a_manifest_cannot_point_outside(registry: AdapterRegistry, lora: Path) -> None:
    made = make(registry, lora)
    file = made.path / "manifest.json"
    values = json.loads(file.read_text())
    values["files"] = {"../../trained.gguf": values["files"]["adapter.gguf"]}
    file.write_text(json.dumps(values))
    with pytest.raises(AdapterError, match="leaves the folder"):
        registry.activate("v0001")


def test_a_version_that_cannot_be_written_leaves_nothing(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match="cannot store"):
        registry.add({"adapter.gguf": tmp_path / "none"}, base_model="m", base_sha256=BASE)
    assert registry.versions() == []
    assert [path.name for path in registry.root.iterdir()] == []


def test_a_damaged_pointer_serves_the_base_and_is_mended_by_activation(
    registry: AdapterRegistry, lora: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(registry, lora)
    registry.activate("v0001")
    (registry.root / "active.json").write_text('{"history": ["../../x"], "last": 1}')
    assert registry.active() is None
    assert "is damaged" in caplog.text
    registry.activate("v0001")
    active = registry.active()
    assert active is not None
    assert make(registry, lora).version == "v0002"
