"""A cloud that contradicts itself: the reward says so, and a chance answer is not taught."""

from collections.abc import Iterator

import pytest

from trainer.data.items import Item
from trainer.gate.evaluate import CloudValue
from trainer.graders import Graders
from trainer.workbench.agreement import settled, teachable


@pytest.fixture(scope="module")
def graders() -> Iterator[Graders]:
    with Graders() as graders:
        yield graders


def asked(*answers: str, prompt: int = 1, **fields: object) -> list[Item]:
    """One prompt, asked several times."""
    given = {"reference_source": "cloud", "cluster": "c", "question": "?", **fields}
    return [
        Item(f"{prompt}-{n}", float(n), (prompt,), reference=answer, cloud_text=answer, **given)  # type: ignore[arg-type]
        for n, answer in enumerate(answers)
    ]


def test_two_of_three(graders: Graders) -> None:
    found = settled(asked("42", "41", "42"), graders)
    assert [item.reference for item in found] == ["42"] * 3
    assert [graders.score(found[1], answer) for answer in ("42", "41", "40")] == [
        pytest.approx(2 / 3),
        pytest.approx(1 / 3),
        0,
    ]
    # Two answers of the cloud, drawn from its three, agree with probability (2/3)² + (1/3)².
    value = CloudValue(found, graders)
    assert [value.of(item) for item in found] == [pytest.approx(5 / 9)] * 3
    assert all(map(teachable, found))


def test_a_tie_is_not_taught(graders: Graders) -> None:
    found = settled(asked("yes", "no"), graders)
    assert not any(map(teachable, found))
    assert [graders.score(found[0], answer) for answer in ("yes", "no")] == [0.5, 0.5]


def test_other_words_for_the_same_are_no_disagreement(graders: Graders) -> None:
    before = asked("42", "The answer is 42.", "42.0")
    assert settled(before, graders) == before


def test_only_the_same_prompt_and_only_the_cloud_counts(graders: Graders) -> None:
    apart = [*asked("42", prompt=1), *asked("41", prompt=2)]
    assert settled(apart, graders) == apart
    clients = asked("42", "41", reference_source="client")
    assert settled(clients, graders) == clients
