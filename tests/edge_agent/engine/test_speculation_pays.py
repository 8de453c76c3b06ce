"""When drafts are made, on machines whose batches take a time that the test sets."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge_agent.engine.request import Choice, Job, Phase
from edge_agent.engine.speculation import Speculator
from edge_agent.records.generation import Counters, GenerationRequest, SamplingParams, TokenEvent

Machine = Callable[[int], float]
"""Seconds of a batch of so many rows."""
MACHINES: dict[str, Machine] = {
    "rows cost nothing": lambda rows: 0.01,
    "rows are cheap": lambda rows: 0.01 * (1 + 0.1 * (rows - 1)),
    "four for two": lambda rows: 0.01 * (1 + (rows - 1) // 4 + 0.25 * ((rows - 1) % 4)),
    "a row costs a token": lambda rows: 0.01 * rows,
    "rows are dearer than tokens": lambda rows: 0.01 * (1 + 1.2 * (rows - 1)),
}
LENGTH = 100


class Nobody:
    """A sink."""

    def decided(self, point: object) -> None: ...
    def emit(self, event: TokenEvent) -> None: ...
    def close(self, error: Exception | None) -> None: ...


def start(prompt: list[int]) -> Choice:
    request = GenerationRequest(tuple(prompt), SamplingParams(max_tokens=LENGTH))
    job = Job(1, request, Nobody())
    job.max_new, job.phase = LENGTH, Phase.RUNNING
    choice = Choice(job, 0)
    choice.sequence.limit = choice.max_length
    return choice


def answer(
    speculator: Speculator, machine: Machine, crowd: list[tuple[Choice, list[int]]]
) -> float:
    """Seconds in which choices that run together say the given tokens."""
    took = 0.0
    while active := [(c, says) for c, says in crowd if c.generated < LENGTH - 1]:
        for choice, says in active:
            sequence = choice.sequence
            sequence.tokens = [*choice.job.prompt, *says[: choice.generated + 1]]
            sequence.done = len(sequence.tokens) - 1
        speculator.propose([choice for choice, _ in active])
        rows = sum(1 + len(choice.draft) for choice, _ in active)
        took += machine(rows)
        speculator.measured(rows, machine(rows))
        for choice, says in active:
            draft, choice.draft = choice.draft, []
            ahead = says[choice.generated + 1 :]
            accepted = next((i for i, t in enumerate(draft) if ahead[i] != t), len(draft))
            choice.generated += 1 + accepted
            if draft:
                speculator.verified(choice.lookup, len(draft), accepted)
    return took


def speed(machine: Machine, copies: bool, answers: int = 12) -> tuple[float, Counters]:
    """Against the same without drafts."""
    counters = Counters()
    speculator = Speculator("auto", counters)
    took = 0.0
    for seed in range(answers):
        rng = np.random.default_rng(seed)
        prompt = [int(t) for t in rng.integers(0, 400, 300)]
        # What is no copy says pairs of the prompt again and again, and goes on otherwise.
        says = prompt[50 : 50 + LENGTH] if copies else list(pairs(rng, prompt))
        took += answer(speculator, machine, [(start(prompt), says)])
    return answers * (LENGTH - 1) * machine(1) / took, counters


def pairs(rng: np.random.Generator, prompt: list[int]) -> Iterator[int]:
    for _ in range(LENGTH // 2):
        at = int(rng.integers(0, len(prompt) - 3))
        yield from prompt[at : at + 2]


@pytest.mark.parametrize("name", MACHINES)
def test_what_copies_nothing_loses_nothing_to_speak_of(name: str) -> None:
    fast, _ = speed(MACHINES[name], copies=False)
    assert fast >= 0.97


@pytest.mark.parametrize(
    ("name", "least"),
    list(zip(MACHINES, (6.0, 3.0, 1.8, 0.97, 0.97), strict=True)),
)
def test_copying_gains_what_the_machine_gives(name: str, least: float) -> None:
    fast, counters = speed(MACHINES[name], copies=True)
    assert fast >= least
    if least > 1:
        assert counters.accepted > 0.9 * counters.proposed


def test_a_machine_that_becomes_another_is_measured_anew() -> None:
    """Rows were dear while a neighbour ran; half a thousand batches later they are tried again."""
    speculator = Speculator("auto", Counters())
    rng = np.random.default_rng(1)
    took = []
    for machine in ("a row costs a token", *["rows are cheap"] * 9):
        prompt = [int(t) for t in rng.integers(0, 400, 300)]
        crowd = [(start(prompt), prompt[50 : 50 + LENGTH])]
        took.append(answer(speculator, MACHINES[machine], crowd))
    assert took[-1] < took[0] / 3


def test_nobody_waits_much_longer_for_what_another_copies() -> None:
    machine, longest = MACHINES["rows are cheap"], []

    def watched(rows: int) -> float:
        longest.append(machine(rows))
        return machine(rows)

    speculator = Speculator("auto", Counters())
    rng = np.random.default_rng(2)
    for _ in range(6):
        prompts = [[int(t) for t in rng.integers(0, 400, 300)] for _ in range(2)]
        copying, other = (
            prompts[0][50 : 50 + LENGTH],
            [int(t) for t in rng.integers(400, 800, LENGTH)],
        )
        answer(speculator, watched, [(start(prompts[0]), copying), (start(prompts[1]), other)])
    together = [s for s in longest if s >= machine(2)]
    assert max(together[LENGTH:]) <= 1.25 * machine(2)
