"""Bring a model's file onto this machine: resumed, verified, and only then given its name.

Addresses, credentials (`HF_TOKEN`) and mirrors (`HF_ENDPOINT`) are huggingface_hub's, and so are
its metadata call and its retrying `http_get`. The partial file is ours: `hf_hub_download` drops
what has arrived when it fails, and compares sizes but not hashes.
"""

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from models import catalog
from models.catalog import HubFile, ModelEntry
from models.errors import DownloadError, GgufError, ModelError, OffloadTokenError
from models.offload_token import usable, verify
from models.storage import file_sha256, locked, private_dir, sync_dir

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did."""

    entry: ModelEntry
    path: Path
    downloaded: bool
    """False if the file was there already."""
    note: str | None = None
    """Something the user should know."""


def pull(entry: ModelEntry, data_dir: Path, *, endpoint: str | None = None) -> Pulled:
    """Download the model's file, verify it, and put it in its place.

    A pull that was cut resumes where it stopped. `endpoint` replaces huggingface_hub's own.
    Raises DownloadError (unreachable, refused, no room, wrong hash), GgufError, ModelError.
    """
    source = next((source for source in entry.sources if isinstance(source, HubFile)), None)
    found = entry.locate(data_dir)
    elsewhere = found is not None and found.parent != catalog.model_dir(data_dir, entry.name)
    if found is not None and (elsewhere or source is None):
        return Pulled(entry, found, downloaded=False)
    if source is None:
        raise ModelError(f"{entry.name} cannot be pulled: its only source is {entry.sources[0]}")
    folder = private_dir(catalog.model_dir(data_dir, entry.name))
    target = folder / Path(source.file).name
    with locked(folder / ".pull.lock"):
        if target.is_file() and source.sha256:
            actual = file_sha256(target, catalog.hash_cache(data_dir))
            if actual == source.sha256:
                return Pulled(entry, target, downloaded=False)
        remote = _look_up(source, endpoint)
        cache = catalog.hash_cache(data_dir)
        if target.is_file() and file_sha256(target, cache) == remote.sha256:
            return Pulled(entry, target, downloaded=False)
        part = _download(source, remote, folder)
        if file_sha256(part, cache) != remote.sha256:
            part.unlink()
            raise DownloadError(
                f"what arrived as {source} is not the published file (its SHA-256 differs); "
                f"it was deleted: pull again"
            )
        try:
            catalog.servable(part)
        except GgufError:
            part.unlink()
            raise
        part.replace(target)
        sync_dir(folder)
    checked, note = _with_usable_token(entry, target, data_dir)
    return Pulled(checked, target, downloaded=True, note=note)


@dataclass(frozen=True, slots=True)
class _Remote:
    url: str
    sha256: str
    size: int


def _look_up(source: HubFile, endpoint: str | None) -> _Remote:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        url = hf_hub_url(source.repo, source.file, revision=source.revision, endpoint=endpoint)
        metadata = get_hf_file_metadata(url, endpoint=endpoint)
    except Exception as error:
        raise _explain(error, source) from error
    published = metadata.etag or ""
    sha256 = source.sha256 or published
    if not _SHA256.fullmatch(sha256) or not metadata.size:
        raise DownloadError(f"the server publishes no SHA-256 for {source}: it cannot be verified")
    if _SHA256.fullmatch(published) and published != sha256:
        raise DownloadError(
            f"{source} has changed: it is {published[:12]}… now, the catalog expects "
            f"{sha256[:12]}…; nothing was downloaded"
        )
    return _Remote(url, sha256, metadata.size)


def _download(source: HubFile, remote: _Remote, folder: Path) -> Path:
    """The whole file as `.<name>.<hash>.part`, continued if a part of it is there."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    name = Path(source.file).name
    part = folder / f".{name}.{remote.sha256[:16]}.part"
    for other in folder.glob(f".{name}.*.part"):
        if other != part:
            other.unlink()
    have = part.stat().st_size if part.exists() else 0
    if have > remote.size:
        part.unlink()
        have = 0
    free = shutil.disk_usage(folder).free
    if free < remote.size - have:
        raise DownloadError(
            f"no room for {source}: {(remote.size - have) / 1e6:,.0f} MB are missing, "
            f"{free / 1e6:,.0f} MB are free in {folder}"
        )
    try:
        with part.open("ab") as file:
            part.chmod(0o600)
            http_get(
                remote.url,
                file,
                resume_size=have,
                headers=build_hf_headers(),
                expected_size=remote.size,
                displayed_filename=name,
            )
    except Exception as error:
        kept = part.stat().st_size / 1e6
        raise _explain(error, source, f"; the {kept:,.0f} MB that arrived are kept") from error
    return part


def _explain(error: Exception, source: HubFile, kept: str = "") -> DownloadError:
    """One line for whatever the library or the network raised."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

    status = (
        getattr(error.response, "status_code", None) if isinstance(error, HfHubHTTPError) else None
    )
    if isinstance(error, OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set"
    elif isinstance(error, GatedRepoError):
        reason = "its licence must be accepted on the repository's page; then set HF_TOKEN"
    elif status == 404:
        reason = f"there is no such file (revision {source.revision})"
    elif status in (401, 403):
        reason = f"it is not public, or HF_TOKEN is wrong (HTTP {status})"
    elif status is not None:
        reason = f"the server answered HTTP {status}; try again later"
    elif isinstance(error, OSError) and error.filename is not None:
        reason = f"cannot write {error.filename}: {error.strerror}"
    elif isinstance(error, ValueError):
        reason = str(error)
    else:
        reason = f"cannot reach the server ({error}); try again later"
    return DownloadError(f"cannot pull {source}: {reason}{kept}")


def _with_usable_token(
    entry: ModelEntry, path: Path, data_dir: Path
) -> tuple[ModelEntry, str | None]:
    """The entry, its offload token replaced (and remembered) if these weights refuse it."""
    try:
        verify(path, entry.offload_token)
    except OffloadTokenError as error:
        token = usable(path, 1)[0]
        entry = replace(entry, offload_token=token)
        catalog.add(entry, data_dir)
        return entry, f"{error.message.partition(', so it')[0]}; {token!r} is used instead"
    return entry, None


def remove(entry: ModelEntry, data_dir: Path) -> int:
    """Delete what was pulled or made for a model, and its entry if the user added it.

    A file of the user's own and a file inside a package stay. Returns the bytes freed. Raises
    ModelError if there is nothing to remove.
    """
    folder = catalog.model_dir(data_dir, entry.name)
    added = entry.name in catalog.Catalog.load(data_dir).added
    if not folder.is_dir() and not added:
        where = entry.locate(data_dir)
        hint = f": its file belongs to the {entry.sources[0]}" if where else ""
        raise ModelError(f"nothing of {entry.name} to remove{hint}")
    freed = sum(path.stat().st_size for path in folder.rglob("*")) if folder.is_dir() else 0
    shutil.rmtree(folder, ignore_errors=True)
    catalog.forget(entry.name, data_dir)
    return freed
