"""Pulling a model: over real HTTP, resumed, verified, and never half there."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from models.catalog import Catalog, HubFile, ModelEntry, resolve
from models.errors import DownloadError, GgufError, ModelNotFound
from models.sources import pull
from tests.models.hub import Hub, serve
from tests.tiny_gguf import write_tiny_gguf

ENTRY = ModelEntry(
    name="tiny",
    title="Tiny",
    sources=(HubFile("someone/tiny", "tiny.gguf"),),
    licence="Apache-2.0",
    context=256,
    offload_token="<offload>",
    architecture="llama",
    size_mb=1,
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    content = write_tiny_gguf(tmp_path / "published.gguf").read_bytes()
    with serve(Hub({"someone/tiny/tiny.gguf": content})) as running:
        yield running


@pytest.fixture
def folder(data_dir: Path) -> Path:
    return data_dir / "models" / "tiny"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub sleeps a second before it retries."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def left(folder: Path) -> list[str]:
    """What lies in the model's folder, less the lock."""
    return sorted(path.name for path in folder.glob("*") if path.name != ".pull.lock")


def test_a_pull_puts_the_verified_file_in_place(hub: Hub, data_dir: Path, folder: Path) -> None:
    done = pull(ENTRY, data_dir, endpoint=hub.url)
    assert done.downloaded
    assert done.note is None
    assert done.path.read_bytes() == hub.files["someone/tiny/tiny.gguf"]
    assert left(folder) == ["tiny.gguf"]
    assert done.path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_second_pull_downloads_nothing(hub: Hub, data_dir: Path) -> None:
    pull(ENTRY, data_dir, endpoint=hub.url)
    hub.requests.clear()
    assert not pull(ENTRY, data_dir, endpoint=hub.url).downloaded
    assert [method for method, _ in hub.requests] == ["HEAD"]


def test_a_cut_pull_is_resumed_by_the_next_one(hub: Hub, data_dir: Path, folder: Path) -> None:
    big = write_tiny_gguf(data_dir.with_name("big.gguf"), width=512)
    hub.files["someone/tiny/tiny.gguf"] = big.read_bytes()
    hub.cut_after = [12_000_000, 0, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="that arrived are kept"):
        pull(ENTRY, data_dir, endpoint=hub.url)
    (part,) = left(folder)
    kept = (folder / part).stat().st_size
    assert kept == 10 * 2**20  # huggingface_hub writes by the 10 MiB
    hub.cut_after, hub.requests = [], []
    assert pull(ENTRY, data_dir, endpoint=hub.url).downloaded
    assert ("GET", f"bytes={kept}-") in hub.requests
    assert left(folder) == ["tiny.gguf"]


def test_a_short_cut_is_mended_at_once(hub: Hub, data_dir: Path) -> None:
    hub.cut_after = [50_000]
    assert pull(ENTRY, data_dir, endpoint=hub.url).downloaded


def test_another_file_than_announced_is_thrown_away(hub: Hub, data_dir: Path, folder: Path) -> None:
    hub.swap = bytes(len(hub.files["someone/tiny/tiny.gguf"]))
    with pytest.raises(DownloadError, match="SHA-256 differs"):
        pull(ENTRY, data_dir, endpoint=hub.url)
    assert left(folder) == []


def test_a_file_changed_since_the_catalog_was_written_is_not_downloaded(
    hub: Hub, data_dir: Path
) -> None:
    pinned = replace(ENTRY, sources=(HubFile("someone/tiny", "tiny.gguf", sha256="0" * 64),))
    with pytest.raises(DownloadError, match="has changed"):
        pull(pinned, data_dir, endpoint=hub.url)
    assert [method for method, _ in hub.requests] == ["HEAD"]


def test_a_server_without_a_hash_is_refused(hub: Hub, data_dir: Path) -> None:
    hub.announce_hash = False
    with pytest.raises(DownloadError, match="publishes no SHA-256"):
        pull(ENTRY, data_dir, endpoint=hub.url)


def test_what_is_published_must_be_a_gguf(hub: Hub, data_dir: Path, folder: Path) -> None:
    hub.files["someone/tiny/tiny.gguf"] = b"<!DOCTYPE html>" * 10
    with pytest.raises(GgufError, match="HTML"):
        pull(ENTRY, data_dir, endpoint=hub.url)
    assert left(folder) == []


@pytest.mark.parametrize(
    ("status", "why"),
    [(404, "no such file"), (401, "not public"), (503, "HTTP 503")],
)
def test_refusals_say_what_to_do(hub: Hub, data_dir: Path, status: int, why: str) -> None:
    hub.status = status
    with pytest.raises(DownloadError, match=why):
        pull(ENTRY, data_dir, endpoint=hub.url)


def test_no_server_is_a_clear_error(data_dir: Path) -> None:
    with pytest.raises(DownloadError, match="cannot reach the server"):
        pull(ENTRY, data_dir, endpoint="http://127.0.0.1:9")


def test_a_full_disk_is_noticed_before_the_download(
    hub: Hub, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(data_dir.parent)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(DownloadError, match="no room"):
        pull(ENTRY, data_dir, endpoint=hub.url)
    assert [method for method, _ in hub.requests] == ["HEAD"]


def test_a_token_the_weights_refuse_is_replaced_and_remembered(hub: Hub, data_dir: Path) -> None:
    done = pull(replace(ENTRY, offload_token="<twin-a>"), data_dir, endpoint=hub.url)
    assert done.note is not None
    assert "'<twin-a>' has (nearly) the same row" in done.note
    assert Catalog.load(data_dir).get("tiny").offload_token == "<offload>"


def test_a_pulled_model_resolves(hub: Hub, data_dir: Path) -> None:
    from models.catalog import add

    add(ENTRY, data_dir)
    with pytest.raises(ModelNotFound, match="edge-agent models pull tiny"):
        resolve("tiny", data_dir)
    done = pull(ENTRY, data_dir, endpoint=hub.url)
    assert resolve("tiny", data_dir).path == done.path
