"""Commands drawn from Home Assistant's sentence templates, with the intent its recogniser reads.

The templates come from the package home-assistant-intents, the recogniser from hassil (both
Apache-2.0, both Home Assistant's own). A sentence is drawn by a random walk through a template;
its truth is what the recogniser makes of the words, so an ambiguous sentence has one right answer
too: the one that Home Assistant would act on.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.home.house import HOUSES, House

_LEFT_OUT = frozenset({"HassRespond", "HassNevermind", "HassBroadcast"})
"""Small talk, and a message that is the whole answer."""
_LONGEST = 90
"""Characters of a command."""


@dataclass(frozen=True, slots=True)
class Command:
    """One spoken command and what it means."""

    text: str
    intent: str
    slots: Mapping[str, Any]
    template: str
    """Which sentence template it was drawn from, the same in every run."""

    @property
    def answer(self) -> str:
        """The right answer: compact JSON with the intent first and the slots by name."""
        ordered = dict(sorted(self.slots.items()))
        return json.dumps({"intent": self.intent, **ordered}, ensure_ascii=False)


class Grammar:
    """The templates of one language."""

    def __init__(self, language: str) -> None:
        """Raises ValueError for a language without a house; ImportError without the packages."""
        from hassil.intents import Intents, TextSlotList
        from home_assistant_intents import get_intents

        if language not in HOUSES:
            raise ValueError(f"no house speaks {language!r}; there are {', '.join(HOUSES)}")
        self.language = language
        self._intents = Intents.from_dict(get_intents(language) or {})
        self._lists = {**self._intents.slot_lists, **_slot_lists(HOUSES[language], TextSlotList)}
        self._templates: dict[str, list[tuple[str, Any, Any]]] = _templates(self._intents)

    @property
    def templates(self) -> dict[str, list[str]]:
        """Intent → names of its sentence templates."""
        return {name: [key for key, _, _ in found] for name, found in self._templates.items()}

    def draw(self, rng: random.Random, intent: str, template: str) -> Command | None:
        """One command of a template; None where its words are read as something else, or long."""
        (sentence, data), *_ = ((s, d) for key, s, d in self._templates[intent] if key == template)
        rules = {**self._intents.expansion_rules, **data.expansion_rules}
        lists = {**self._lists, **data.slot_lists}
        try:
            text = " ".join(_walk(sentence.expression, lists, rules, rng).split())
        except KeyError:  # a list or rule that only a real Home Assistant fills
            return None
        if not text or len(text) > _LONGEST:
            return None
        command = self._read(text, template)
        return command if command is not None and command.intent == intent else None

    def _read(self, text: str, key: str) -> Command | None:
        from hassil.recognize import recognize_best

        found = recognize_best(
            text,
            self._intents,
            slot_lists=self._lists,
            language=self.language,
            best_slot_name="name",
        )
        if found is None or found.intent.name in _LEFT_OUT:
            return None
        slots = {name: _plain(entity.value) for name, entity in found.entities.items()}
        return Command(text, found.intent.name, slots, key)


def _plain(value: Any) -> Any:
    """Whole numbers without a fraction, as a person would write them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _slot_lists(house: House, text_list: Any) -> dict[str, Any]:
    names = [(n, n, {"domain": domain}) for domain, ns in house.devices.items() for n in ns]
    return {
        "area": text_list.from_strings(house.areas, name="area"),
        "floor": text_list.from_strings(house.floors, name="floor"),
        "name": text_list.from_tuples(names, name="name"),
        **{
            slot: text_list.from_strings(values, name=slot)
            for slot, values in house.free_text.items()
        },
    }


def _templates(intents: Any) -> dict[str, list[tuple[str, Any, Any]]]:
    """Intent → (key, sentence, block) of every template whose meaning is in its own words."""
    found: dict[str, list[tuple[str, Any, Any]]] = {}
    for name, intent in intents.intents.items():
        for number, data in enumerate(intent.data):
            if name in _LEFT_OUT or any(
                isinstance(wanted, Mapping) and wanted.get("slot")
                for wanted in data.requires_context.values()
            ):
                continue  # "here" means the room of the microphone
            for place, sentence in enumerate(data.sentences):
                found.setdefault(name, []).append((f"{name}/{number}/{place}", sentence, data))
    return found


def _walk(
    expression: Any,
    lists: Mapping[str, Any],
    rules: Mapping[str, Any],
    rng: random.Random,
) -> str:
    """Words of one random path through a template. Raises KeyError for a list it does not have."""
    from hassil import expression as kinds

    def walk(part: Any) -> str:
        return _walk(part, lists, rules, rng)

    match expression:
        case kinds.TextChunk():
            return str(expression.original_text)
        case kinds.Alternative():
            return walk(rng.choice(expression.items))
        case kinds.Permutation():
            return " ".join(map(walk, rng.sample(expression.items, len(expression.items))))
        case kinds.Group():
            return "".join(map(walk, expression.items))
        case kinds.RuleReference():
            return walk(rules[expression.rule_name].expression)
        case kinds.ListReference():
            said = _value(lists[expression.list_name], rng, walk)
            return f"{expression.prefix or ''}{said}{expression.suffix or ''}"
    raise TypeError(f"not a part of a template: {expression!r}")


def _value(slot_list: Any, rng: random.Random, walk: Any) -> str:
    from hassil import intents as kinds

    match slot_list:
        case kinds.TextSlotList():
            return str(walk(rng.choice(slot_list.values).text_in))
        case kinds.RangeSlotList():
            steps = (slot_list.stop - slot_list.start) // slot_list.step
            return str(slot_list.start + slot_list.step * rng.randint(0, steps))
    raise KeyError(slot_list.name)
