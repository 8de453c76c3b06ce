"""What the app asks: days of commands, and commands that training never sees."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.home.grammar import Command, Grammar

SYSTEM = (
    "You are the voice assistant of a smart home. Answer with one line of JSON: the intent, then "
    "its slots."
)
"""The app's own system prompt; with the command it is all that the app sends."""
MAX_TOKENS = 64
_UNSEEN_TEMPLATES = 0.1
"""Share of the sentence templates that no day uses."""
_TRIES = 60
"""Draws for each command that is wanted."""


@dataclass(frozen=True)
class Workload:
    """The commands of one language. No text is in two of the three."""

    stream: tuple[Command, ...]
    """What is asked, day after day."""
    held_out: tuple[Command, ...]
    """Other words and values from the same sentence templates."""
    other_templates: tuple[Command, ...]
    """From sentence templates that the stream never uses."""


def draw(language: str, *, stream: int, held_out: int, seed: int) -> Workload:
    """Commands of `language`; the templates set apart are the same for every seed.

    Raises ValueError if the grammar has too few, ImportError without its packages.
    """
    grammar, rng = Grammar(language), random.Random(f"{seed}:{language}")  # noqa: S311
    known: dict[str, Command] = {}
    other: dict[str, Command] = {}
    for _ in range(_TRIES * (stream + 2 * held_out)):
        command = grammar.draw(rng)
        if command is None:
            continue
        side, most = (
            (other, held_out) if is_set_apart(command.template) else (known, stream + held_out)
        )
        if len(side) < most:
            side.setdefault(command.text.casefold(), command)
        if len(known) == stream + held_out and len(other) == held_out:
            break
    if len(known) < stream + held_out:
        raise ValueError(f"the grammar of {language!r} gave {len(known)} different commands only")
    found = list(known.values())
    return Workload(tuple(found[held_out:]), tuple(found[:held_out]), tuple(other.values()))


def is_set_apart(template: str) -> bool:
    """Whether no day uses this sentence template."""
    digest = hashlib.sha256(template.encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < _UNSEEN_TEMPLATES


def answers(workloads: Sequence[Workload]) -> dict[str, str]:
    """Command → right answer, for the reference cloud."""
    return {
        command.text: command.answer
        for workload in workloads
        for side in (workload.stream, workload.held_out, workload.other_templates)
        for command in side
    }
