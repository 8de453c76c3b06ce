"""What the app asks: days of commands, and commands that training never sees."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from benchmarks.home.grammar import Command, Grammar

SYSTEM = (
    "You are the voice assistant of a smart home. Answer with one line of JSON: the intent, then "
    "its slots."
)
"""The app's own system prompt; with the command it is all that the app sends."""
MAX_TOKENS = 64
_UNSEEN_TEMPLATES = 0.1
"""Share of the sentence templates that no household uses."""
_TRIES = 60
"""Draws for each command that is wanted."""
_WALKS = 8
"""Walks through a template that may fail before it counts as one that nobody can say."""


@dataclass(frozen=True)
class Workload:
    """The commands of one language. No text is in two of the three."""

    stream: tuple[Command, ...]
    """What is asked, day after day."""
    held_out: tuple[Command, ...]
    """Other words and values in the same sentence templates."""
    other_templates: tuple[Command, ...]
    """In sentence templates that no household uses."""


def draw(language: str, *, stream: int, held_out: int, seed: int) -> Workload:
    """Commands of one household.

    The seed is the household. It asks for each thing in its own way: one sentence template an
    intent, with other words and values each time; the n-th intent is asked for 1/n as often as the
    first (Zipf). So 125 answers teach nine tenths of the held-out commands, as in the first try on
    such commands (benchmarks/LOG.md, 2026-11-28). The templates that nobody uses are the same for
    every seed. Raises ValueError if the grammar has too few commands, ImportError without its
    packages.
    """
    grammar, rng = Grammar(language), random.Random(f"{seed}:{language}")  # noqa: S311
    used, unused = {}, {}
    for intent, templates in grammar.templates.items():
        apart = [template for template in templates if is_set_apart(template)]
        others = [template for template in templates if template not in apart]
        shuffled = rng.sample(others, len(others))
        said = (template for template in shuffled if _can_be_said(grammar, intent, template))
        used[intent] = list(islice(said, 1))
        unused[intent] = apart
    found = _distinct(grammar, used, stream + held_out, rng)
    if len(found) < stream + held_out:
        raise ValueError(f"the grammar of {language!r} gave {len(found)} different commands only")
    # What is rare runs out of words late in the draw: neither side may have the early ones.
    rng.shuffle(found)
    texts = {command.text.casefold() for command in found}
    other = [c for c in _distinct(grammar, unused, held_out, rng) if c.text.casefold() not in texts]
    return Workload(tuple(found[held_out:]), tuple(found[:held_out]), tuple(other))


def _can_be_said(grammar: Grammar, intent: str, template: str) -> bool:
    rng = random.Random(template)  # noqa: S311
    return any(grammar.draw(rng, intent, template) for _ in range(_WALKS))


def _distinct(
    grammar: Grammar, templates: Mapping[str, Sequence[str]], count: int, rng: random.Random
) -> list[Command]:
    """Up to `count` commands of different words."""
    intents = [intent for intent, keys in templates.items() if keys]
    rng.shuffle(intents)
    found: dict[str, Command] = {}
    for _ in range(_TRIES * count):
        intent = _zipf(intents, rng)
        command = grammar.draw(rng, intent, rng.choice(templates[intent]))
        if command is not None:
            found.setdefault(command.text.casefold(), command)
        if len(found) == count:
            break
    return list(found.values())


def _zipf(ranked: Sequence[str], rng: random.Random) -> str:
    return rng.choices(ranked, [1 / rank for rank in range(1, len(ranked) + 1)])[0]


def is_set_apart(template: str) -> bool:
    """Whether no household uses this sentence template."""
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
