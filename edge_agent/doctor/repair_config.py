"""A configuration file that cannot be read: what can be read of it stays, the rest is marked."""

import shutil
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

from edge_agent.config import load
from edge_agent.config_edit import set_value
from edge_agent.errors import ConfigError
from models.storage import write_atomically

_MARK = "# unreadable: "
_LONGEST_VALUE = 50
"""Lines of one value."""


def repair_config(file: Path) -> Iterator[str]:
    """Mark the lines of `file` that are no valid settings; yields what was done.

    The file as it was is kept beside it. A limit may have been on a lost line, so the cloud is
    off until the user has looked. Raises ConfigError if `file` cannot be written.
    """
    try:
        load(file=file, environ={})
        return
    except ConfigError as error:
        problem = error.message
    aside = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        text = file.read_bytes().decode("utf-8", "replace")
        shutil.copy2(file, aside)
        write_atomically(file.resolve(), readable(text))
    except OSError as error:
        raise ConfigError(f"cannot repair {file}: {error.strerror}") from error
    set_value(file, "budget.calls_per_day", "0")
    yield f"{problem}; the lines that cannot be read are marked, the file as it was is {aside}"
    yield (
        "a limit may be lost with them, so budget.calls_per_day is 0: look at the file, then "
        "edge-agent config unset budget.calls_per_day"
    )


def readable(text: str) -> str:
    """`text` with every line marked that keeps it from being a valid configuration."""
    kept: list[str] = []
    lines = text.splitlines()
    while lines:
        # A list may go over several lines.
        longest = min(len(lines), _LONGEST_VALUE)
        whole = next((n for n in range(1, longest + 1) if _parses([*kept, *lines[:n]])), 0)
        kept += lines[:whole] or [_marked(lines[0])]
        del lines[: whole or 1]
    while not _loads(kept):
        # No syntax, but a name or a value is wrong: without which line, or table, is it valid?
        suspects = list(_suspects(kept))
        kept = next((found for found in suspects if _loads(found)), suspects[-1])
    return "\n".join(kept) + "\n"


def _suspects(lines: list[str]) -> Iterator[list[str]]:
    """`lines` with one setting marked, with one table marked, and at last with the last of them."""
    settings = [n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")]
    headers = [n for n in settings if lines[n].lstrip().startswith("[")]
    ends = [*headers[1:], len(lines)]
    tables = [
        [n for n in settings if first <= n < end] for first, end in zip(headers, ends, strict=False)
    ]
    for marked in (*([n] for n in settings), *tables, settings[-1:]):
        yield [_marked(line) if n in marked else line for n, line in enumerate(lines)]


def _marked(line: str) -> str:
    return _MARK + "".join(c if c.isprintable() else "?" for c in line)


def _parses(lines: list[str]) -> bool:
    try:
        tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return False
    return True


def _loads(lines: list[str]) -> bool:
    try:
        load(text="\n".join(lines), environ={})
    except ConfigError:
        return False
    return True
