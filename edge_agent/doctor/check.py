"""One check's finding, and what the checks are given."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edge_agent.config.settings import Settings


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as well or as safely as it could."""
    FAILURE = "failure"
    """Something will not work."""


@dataclass(frozen=True)
class Check:
    """One finding. `advice` says what to do about it."""

    name: str
    verdict: Verdict
    message: str
    advice: str | None = None


@dataclass(frozen=True)
class Subject:
    """What is examined. `root` stands before the system's own paths (/etc, /dev, /proc)."""

    settings: Settings
    root: Path = Path("/")


def ok(name: str, message: str) -> Check:
    """All is well."""
    return Check(name, Verdict.OK, message)


def warning(name: str, message: str, advice: str) -> Check:
    """It works, but."""
    return Check(name, Verdict.WARNING, message, advice)


def failure(name: str, message: str, advice: str) -> Check:
    """Something will not work."""
    return Check(name, Verdict.FAILURE, message, advice)
