"""The smart home's commands: read by the recogniser, apart from each other, always the same."""

import json
import random
from collections import Counter

import pytest

from benchmarks.home import workload
from benchmarks.home.app import is_right
from benchmarks.home.grammar import Command, Grammar
from benchmarks.reference_cloud.replies import mistake


@pytest.fixture(scope="module")
def english() -> workload.Workload:
    return workload.draw("en", stream=60, held_out=20, seed=0)


def test_a_command_means_what_home_assistant_reads(english: workload.Workload) -> None:
    found = json.loads(Command("set the volume", "HassSetVolume", {"level": 3}, "t").answer)
    assert found == {"intent": "HassSetVolume", "level": 3}
    for command in english.stream:
        answer = json.loads(command.answer)
        assert answer.pop("intent") == command.intent
        assert answer == command.slots
        assert not any(isinstance(v, float) and v.is_integer() for v in answer.values())


def test_no_text_is_both_asked_and_held_out(english: workload.Workload) -> None:
    texts = [
        {command.text.casefold() for command in side}
        for side in (english.stream, english.held_out, english.other_templates)
    ]
    assert [len(side) for side in texts] == [60, 20, 20]
    assert not (texts[0] & texts[1])
    assert not (texts[0] & texts[2])
    assert not (texts[1] & texts[2])


def test_templates_set_apart_are_never_asked(english: workload.Workload) -> None:
    asked = {command.template for command in (*english.stream, *english.held_out)}
    assert not any(map(workload.is_set_apart, asked))
    assert all(workload.is_set_apart(command.template) for command in english.other_templates)


def test_a_seed_gives_the_same_commands_again(english: workload.Workload) -> None:
    assert workload.draw("en", stream=60, held_out=20, seed=0) == english
    other = workload.draw("en", stream=60, held_out=20, seed=1)
    assert {c.template for c in other.stream} != {c.template for c in english.stream}


def test_some_intents_are_frequent_and_many_are_rare(english: workload.Workload) -> None:
    counts = Counter(command.intent for command in english.stream).most_common()
    assert len(counts) > 12
    assert counts[0][1] >= 4 * counts[len(counts) // 2][1]


def test_a_household_says_each_thing_in_its_own_way(english: workload.Workload) -> None:
    ways: dict[str, set[str]] = {}
    for command in (*english.stream, *english.held_out):
        ways.setdefault(command.template.partition("/")[0], set()).add(command.template)
    assert max(map(len, ways.values())) == 1


def test_a_german_house_speaks_german() -> None:
    found = workload.draw("de", stream=30, held_out=5, seed=0)
    assert any(set(command.text) & set("äöüß") for command in found.stream)
    with pytest.raises(ValueError, match="no house speaks"):
        Grammar("xx")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"intent": "HassTurnOn", "name": "lamp", "level": 3}', True),
        ('{"level": 3, "name": "lamp", "intent": "HassTurnOn"}', True),
        ('{"intent":"HassTurnOn","name":"lamp","level":3}', True),
        ('{"intent": "HassTurnOn", "name": "lamp", "level": "3"}', False),
        ('{"intent": "HassTurnOn", "name": "lamp"}', False),
        ('{"intent": "HassTurnOn", "name": "lamp", "level": 3, "area": "attic"}', False),
        ("lamp", False),
        ("", False),
    ],
)
def test_an_answer_is_right_as_a_whole_or_not_at_all(answer: str, right: bool) -> None:
    command = Command("lamp on", "HassTurnOn", {"name": "lamp", "level": 3}, "t")
    assert is_right(command, answer) is right


def test_the_reference_cloud_mistakes_a_command_for_another_one() -> None:
    rng = random.Random(0)
    for answer in (
        '{"intent": "HassTurnOn", "name": "lamp"}',
        '{"intent": "HassSetVolume", "area": "attic", "volume_level": 30}',
        '{"intent": "HassGetCurrentTime"}',
    ):
        for _ in range(10):
            wrong = json.loads(mistake(answer, rng))
            assert wrong != json.loads(answer)
