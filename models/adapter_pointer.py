"""`active.json`: the version that is served, and the versions served before it.

A pointer is a value: each step gives a new one, and `write_pointer` puts it in place of the file
in one rename.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from models.adapter_version import check_version
from models.errors import AdapterError
from models.storage import write_atomically

_REMEMBERED = 100
_TORN = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, AdapterError)
"""What reading a damaged pointer raises."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """What is served. None stands for the base model."""

    history: tuple[str | None, ...] = ()
    """What was served, newest last; rolling back pops."""
    last: int = 0
    """The highest number ever given, so that a removed version's name is not used again."""

    @property
    def version(self) -> str | None:
        """What is served now."""
        return self.history[-1] if self.history else None

    def moved(self, version: str | None) -> "Pointer":
        """At `version`; the pointer itself if it is there already."""
        if self.history and self.history[-1] == version:
            return self
        return replace(self, history=(*(self.history or (None,)), version)[-_REMEMBERED:])

    def keeping(self, wanted: Callable[[str | None], bool]) -> "Pointer":
        """With what is `wanted` of the history, without repeats in a row."""
        return replace(self, history=tuple(_collapse(filter(wanted, self.history))))


def read_pointer(path: Path) -> Pointer:
    """The pointer at `path`; that of a new registry if there is none. Raises AdapterError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        history = tuple(check_version(v) if v is not None else None for v in values["history"])
        return Pointer(history, int(values["last"]))
    except FileNotFoundError:
        return Pointer()
    except _TORN as error:
        raise AdapterError(f"{path} is damaged ({error})") from error


def write_pointer(path: Path, pointer: Pointer) -> None:
    """Replace the pointer at `path`, whole or not at all."""
    write_atomically(path, json.dumps({"version": pointer.version, **asdict(pointer)}, indent=1))


def _collapse(names: Iterable[str | None]) -> Iterator[str | None]:
    """One of each run of equal names."""
    previous: object = object()
    for name in names:
        if name != previous:
            yield name
        previous = name
