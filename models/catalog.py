"""Which models there are, and which file on this machine serves one.

The built-in catalog is `catalog.toml` beside this file; `<data_dir>/models/catalog.toml` holds
what the user added and wins over it.
"""

import difflib
import importlib.util
import logging
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import GgufError, ModelError, ModelNotFound
from models.gguf import GgufInfo, inspect, model_sha256
from models.storage import locked, private_dir, write_atomically
from models.tuned import Tuned

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_log = logging.getLogger(__name__)
_HEADER = "# Written by `edge-agent models add`; may be edited by hand.\n"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_FILE = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)*[A-Za-z0-9][A-Za-z0-9._-]*")

TRAINABLE = frozenset({"llama", "qwen2", "qwen3", "gemma3"})
"""Architectures whose GGUF transformers loads and whose LoRA the trainer exports."""


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A GGUF inside an installed Python package."""

    package: str
    """Import name of the package."""
    file: str

    def locate(self, _folder: Path) -> Path | None:
        """The file, if the package is installed. The package is not imported."""
        spec = importlib.util.find_spec(self.package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            path = Path(root) / self.file
            if path.is_file():
                return path
        return None

    def __str__(self) -> str:
        return f"package {self.package}"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A GGUF in a Hugging Face repository; `sha256` is checked if given, else the hub's own."""

    repo: str
    file: str
    revision: str = "main"
    sha256: str | None = None

    def locate(self, folder: Path) -> Path | None:
        """The file, if it was pulled into `folder`."""
        path = folder / Path(self.file).name
        return path if path.is_file() else None

    def __str__(self) -> str:
        return f"hf:{self.repo}/{self.file}"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A GGUF anywhere on this machine."""

    path: Path

    def locate(self, _folder: Path) -> Path | None:
        """The file, if it is there."""
        return self.path if self.path.is_file() else None

    def __str__(self) -> str:
        return str(self.path)


Source = PackageFile | HubFile | LocalFile


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model of the catalog."""

    name: str
    """What commands call it: lower case, no path."""
    title: str
    sources: tuple[Source, ...]
    """Tried in this order."""
    licence: str
    """SPDX identifier, or the licence's own name."""
    context: int
    """Tokens the model was trained for."""
    offload_token: str
    """The vocabulary token that means "ask the cloud"; verified when the model is loaded."""
    architecture: str
    size_mb: int
    """Size of the file, rounded."""
    chat_template: str | None = None
    """Jinja template that replaces the file's own."""
    served_only: str | None = None
    """Why this model cannot be trained here; None if it can."""

    @property
    def trainable(self) -> bool:
        """Whether the trainer can adapt it."""
        return self.served_only is None

    def locate(self, data_dir: Path) -> Path | None:
        """The file as shipped, if it is on this machine."""
        folder = model_dir(data_dir, self.name)
        return next((path for source in self.sources if (path := source.locate(folder))), None)


@dataclass(frozen=True)
class ResolvedModel:
    """A model and the file to serve it from."""

    entry: ModelEntry
    path: Path
    """The GGUF to load: the choice of `models tune` if there is one, else `shipped`."""
    shipped: Path
    """The GGUF as it was published: adapters are trained for this one, however it is served."""
    data_dir: Path = field(repr=False)

    @cached_property
    def base_sha256(self) -> str:
        """Identity of the base model: the hash of the shipped file, or of all its parts."""
        return model_sha256(self.shipped, hash_cache(self.data_dir))


class Catalog:
    """Entries by name, in catalog order."""

    def __init__(self, entries: Mapping[str, ModelEntry], added: frozenset[str]) -> None:
        self._entries = dict(entries)
        self.added = added
        """Names that come from the user's own catalog."""

    @classmethod
    def load(cls, data_dir: Path) -> "Catalog":
        """Read both catalogs. Raises ModelError naming the file and the bad entry."""
        built_in = _read(Path(__file__).with_name("catalog.toml"))
        own = _read(user_catalog(data_dir))
        return cls({**built_in, **own}, frozenset(own))

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """All entries."""
        return tuple(self._entries.values())

    def get(self, name: str) -> ModelEntry:
        """The entry of that name, or ModelNotFound naming the nearest one."""
        entry = self._entries.get(name.lower())
        if entry is None:
            nearest = difflib.get_close_matches(name.lower(), self._entries, n=1, cutoff=0.5)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ModelNotFound(
                f"no model {name!r} in the catalog{hint} (`edge-agent models list` shows all)",
                param="model",
            )
        return entry


def resolve(name_or_path: str, data_dir: Path) -> ResolvedModel:
    """The model to serve and its file.

    A path (anything with a separator or ending in `.gguf`) needs no catalog entry. Raises
    ModelNotFound with what to run or the nearest name; GgufError if the file is damaged.
    """
    if is_path(name_or_path):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise ModelNotFound(f"no such file: {path}", param="model")
        return ResolvedModel(entry_for(path), path, path, data_dir)
    entry = Catalog.load(data_dir).get(name_or_path)
    shipped = entry.locate(data_dir)
    if shipped is None:
        raise ModelNotFound(
            f"{entry.name} is not on this machine; run `edge-agent models pull {entry.name}`"
            if any(isinstance(source, HubFile) for source in entry.sources)
            else f"the file of {entry.name} is gone: {entry.sources[-1]}",
            param="model",
        )
    servable(shipped)
    resolved = ResolvedModel(entry, shipped, shipped, data_dir)
    tuned = _tuned(resolved)
    return ResolvedModel(entry, tuned, shipped, data_dir) if tuned else resolved


def _tuned(resolved: ResolvedModel) -> Path | None:
    folder = model_dir(resolved.data_dir, resolved.entry.name)
    tuned = Tuned.load(folder)
    if tuned is None:
        return None
    stale = tuned.stale(folder, lambda: resolved.base_sha256)
    if stale:
        _log.warning(
            "the tuned choice for %s is not used: %s; run `edge-agent models tune %s` again",
            *(resolved.entry.name, stale, resolved.entry.name),
        )
        return None
    return tuned.path(folder)


def servable(path: Path) -> GgufInfo:
    """Inspect a file that is to be served. Raises GgufError if it is no language model."""
    info = inspect(path)
    if info.kind != "model" or info.architecture == "clip":
        kind = "a vision projector" if info.architecture == "clip" else f"of type {info.kind}"
        raise GgufError(f"{path} is {kind}, not a language model that can be served")
    return info


def entry_for(
    path: Path, *, name: str | None = None, offload_token: str | None = None
) -> ModelEntry:
    """An entry for a file of the user's own, from what the file says about itself.

    Without `offload_token`, the first usable one is taken (the same for the same file).
    """
    from models.offload_token import usable, verify

    path = path.absolute()
    info = servable(path)
    if offload_token is None:
        offload_token = usable(path, 1)[0]
    else:
        verify(path, offload_token)
    trainable = info.architecture in TRAINABLE
    return ModelEntry(
        name=name or slug(path.stem),
        title=info.name,
        sources=(LocalFile(path),),
        licence=str(info.metadata.get("general.license", "unknown")),
        context=info.context_length,
        offload_token=offload_token,
        architecture=info.architecture,
        size_mb=round(info.size / 1e6),
        served_only=None if trainable else f"the trainer does not support {info.architecture}",
    )


def add(entry: ModelEntry, data_dir: Path) -> None:
    """Write `entry` into the user's catalog, replacing one of the same name."""
    check_name(entry.name)
    with _user_document(data_dir) as document:
        document[entry.name] = _table(entry)


def forget(name: str, data_dir: Path) -> None:
    """Take `name` out of the user's catalog; it need not be there."""
    if user_catalog(data_dir).is_file():
        with _user_document(data_dir) as document:
            document.pop(name, None)


def is_path(name_or_path: str) -> bool:
    """Whether the user means a file rather than a catalog name."""
    return "/" in name_or_path or "\\" in name_or_path or name_or_path.lower().endswith(".gguf")


def check_name(name: str) -> str:
    """`name` if it is one that may become a folder; else ModelError."""
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise ModelError(
            f"{name!r} is not a model name: use lower-case letters, digits, '.', '_' and '-', "
            f"starting with a letter or digit"
        )
    return name


def slug(text: str) -> str:
    """A valid model name made from a file name."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._") or "model"


def model_dir(data_dir: Path, name: str) -> Path:
    """Where the files of one model lie."""
    return data_dir / "models" / check_name(name)


def user_catalog(data_dir: Path) -> Path:
    """The user's own catalog file."""
    return data_dir / "models" / "catalog.toml"


def hash_cache(data_dir: Path) -> Path:
    """The file that remembers hashes of model files."""
    return data_dir / "models" / "sha256.json"


def _read(path: Path) -> dict[str, ModelEntry]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"cannot read the catalog {path}: {error}") from error
    try:
        return {check_name(name): _entry(name, table) for name, table in tables.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the catalog {path} has a bad entry: {error}") from error


def _entry(name: str, table: Mapping[str, Any]) -> ModelEntry:
    values = dict(table)
    try:
        for key, value in values.items():
            kind = {"sources": list, "context": int, "size_mb": int}.get(key, str)
            if not isinstance(value, kind):
                raise TypeError(f"{key} must be of type {kind.__name__}")
        sources = tuple(_source(source) for source in values.pop("sources"))
        if not sources:
            raise ValueError("no source")
        return ModelEntry(name=name, sources=sources, **values)
    except KeyError as error:
        raise ValueError(f"[{name}] lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"[{name}] {error}") from error


def _source(table: Mapping[str, str]) -> Source:
    if "path" in table:
        return LocalFile(Path(table["path"]).expanduser())
    if not _FILE.fullmatch(table["file"]):
        raise ValueError(f"file {table['file']!r} is not a plain relative file name")
    return PackageFile(**table) if "package" in table else HubFile(**table)


@contextmanager
def _user_document(data_dir: Path) -> Iterator["TOMLDocument"]:
    """The user's catalog, to be changed in place: comments and order stay as the user left them."""
    import tomlkit

    path = user_catalog(data_dir)
    private_dir(path.parent)
    with locked(path.with_name(".catalog.lock")):
        _read(path)  # refuses a damaged one
        text = path.read_text(encoding="utf-8") if path.exists() else _HEADER
        document = tomlkit.parse(text)
        yield document
        write_atomically(path, tomlkit.dumps(document))


def _table(entry: ModelEntry) -> dict[str, Any]:
    sources = []
    for source in entry.sources:
        pairs = ((key, getattr(source, key)) for key in source.__dataclass_fields__)
        sources.append({key: str(value) for key, value in pairs if value is not None})
    rest = ((key, getattr(entry, key)) for key in entry.__dataclass_fields__)
    table = {k: v for k, v in rest if k not in ("name", "sources") and v is not None}
    return {**table, "sources": sources}
