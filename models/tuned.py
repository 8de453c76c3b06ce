"""What `edge-agent models tune` chose for a model on this machine, remembered beside its files."""

import importlib.metadata
import json
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.storage import write_atomically

_FILE = "tuned.json"
TOLERANCE = 0.02
"""A form may be this much more perplexed than the best one (relative), where the user tunes."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """The choice and what it holds for; `stale` says if that changed."""

    choice: str
    """`as shipped` or a quantization, e.g. `Q4_0`."""
    file: str | None
    """Name of the requantized GGUF in the model's folder; None for the shipped file."""
    file_size: int
    """Bytes of `file`."""
    shipped_sha256: str
    llama_cpp: str
    """Version of llama-cpp-python."""
    cpu: str
    rows: tuple[Mapping[str, Any], ...]
    """What was measured, for `models show`."""
    proposed: str | None = None
    """A form that is faster, but less exact than the one chosen; only the user may take it."""

    @classmethod
    def load(cls, folder: Path) -> "Tuned | None":
        """The choice remembered in `folder`; None if there is none or it cannot be read."""
        try:
            values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            return cls(**{**values, "rows": tuple(values["rows"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def save(self, folder: Path) -> None:
        """Remember the choice, atomically."""
        write_atomically(folder / _FILE, json.dumps(asdict(self), indent=1))

    def path(self, folder: Path) -> Path | None:
        """The requantized file; None if the shipped one was the best."""
        return folder / self.file if self.file else None

    def proposal(self, name: str) -> str | None:
        """What the user may want to run, and what it would cost; None: nothing."""
        rows = {row["name"]: row for row in self.rows}
        if self.proposed is None:
            return None
        other, ours = rows[self.proposed], rows[self.choice]
        loss = other["perplexity"] / ours["perplexity"] - 1
        best = min(row["perplexity"] for row in self.rows if not row["skipped"])
        needed = other["perplexity"] / best - 1
        return (
            f"{self.proposed} would read {other['prefill'] / ours['prefill']:.1f} × and write "
            f"{other['decode_1'] / ours['decode_1']:.1f} × as fast as {self.choice}, with "
            f"{loss:.1%} more perplexity: edge-agent models tune {name}"
            + (f" --tolerance {math.floor(100 * needed + 1) / 100}" if needed > TOLERANCE else "")
        )

    def stale(self, folder: Path, shipped_sha256: Callable[[], str]) -> str | None:
        """Why the choice no longer holds, or None if it does."""
        if self.llama_cpp != llama_cpp_version():
            return f"llama-cpp-python is now {llama_cpp_version()} (was {self.llama_cpp})"
        if self.cpu != cpu_name():
            return f"the processor is now {cpu_name()} (was {self.cpu})"
        path = self.path(folder)
        if path is not None and (not path.is_file() or path.stat().st_size != self.file_size):
            return f"{path.name} is gone or has changed"
        if self.shipped_sha256 != shipped_sha256():
            return "the shipped file has changed"
        return None


def forget(folder: Path) -> None:
    """Drop the choice; the shipped file is served again."""
    (folder / _FILE).unlink(missing_ok=True)


def llama_cpp_version() -> str:
    """Version of the installed llama-cpp-python, without importing it."""
    return importlib.metadata.version("llama-cpp-python")


def cpu_name() -> str:
    """The processor's own name, e.g. "AMD EPYC 9R14"."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
