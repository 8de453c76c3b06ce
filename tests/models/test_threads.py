"""Threads that follow the machine: a simulated one, whose neighbours come and go."""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from models.llama.threads import ThreadControl, Work, ladder

Machine = Callable[[int, int], float]
"""Threads and neighbours → seconds of one token of one sequence."""


def two_cores(threads: int, neighbours: int) -> float:
    """As measured on two cores with a model of 135M parameters."""
    return {(2, 0): 0.0125, (2, 1): 0.06, (2, 2): 0.14}.get((threads, neighbours)) or {
        0: 0.0195,
        1: 0.020,
        2: 0.028,
    }[neighbours]


def eight_cores(threads: int, neighbours: int) -> float:
    """Each neighbour takes one core; who has to share one is waited for."""
    fits = threads <= 8 - neighbours
    return 0.06 / threads * (1 if fits else 6)


@dataclass
class Simulation:
    """Decodes on a machine for as long as it is told, and notes who used how many threads."""

    control: ThreadControl
    machine: Machine
    noise: float = 0.0
    work: Work = "decode"
    width: int = 1
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def run(self, seconds: float, neighbours: int = 0) -> list[tuple[float, int]]:
        """(time, threads) of every batch."""
        now, used = 0.0, []
        while now < seconds:
            threads = self.control.choose(self.work, self.width)
            took = self.machine(threads, neighbours) * self.width
            took *= self.rng.lognormvariate(-(self.noise**2) / 2, self.noise)
            self.control.observe(self.work, self.width, threads, took)
            used.append((now, threads))
            now += took
        return used


def share(used: list[tuple[float, int]], threads: int, after: float = 0.0) -> float:
    """Of the batches after `after` seconds, how many ran on `threads`."""
    late = [count for at, count in used if at >= after]
    return late.count(threads) / len(late)


def speed(used: list[tuple[float, int]], after: float) -> float:
    """Batches a second after `after`."""
    late = [at for at, _ in used if at >= after]
    return (len(late) - 1) / (late[-1] - late[0])


def simulation(machine: Machine = two_cores, most: int = 2, **others: object) -> Simulation:
    return Simulation(ThreadControl(most), machine, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.4])
def test_a_quiet_machine_gives_all_its_threads(noise: float) -> None:
    used = simulation(noise=noise).run(30)
    assert share(used, 2) > 0.9
    assert speed(used, after=0) > 0.95 / two_cores(2, 0)


@pytest.mark.parametrize("neighbours", [1, 2])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_neighbour_is_noticed_within_a_second(neighbours: int, noise: float) -> None:
    sim = simulation(noise=noise)
    sim.run(10)
    used = sim.run(20, neighbours)
    assert share([batch for batch in used if 1 < batch[0] < 2], 1) > 0.9
    assert speed(used, after=1) > 0.9 / two_cores(1, neighbours)


@pytest.mark.parametrize("neighbours", [1, 2])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_its_end_is_noticed_within_seconds(neighbours: int, noise: float) -> None:
    sim = simulation(noise=noise)
    sim.run(5)
    sim.run(20, neighbours)
    used = sim.run(20)
    assert share(used, 2, after=4) > 0.95


def test_ups_and_downs_of_a_busy_machine_are_no_reason_to_try_what_cost_much() -> None:
    """One thread is now faster, now slower; a token on two takes for ever."""
    sim = simulation()
    waves = itertools.cycle([*[0.020] * 20, *[0.040] * 10])
    sim.machine = lambda threads, _: next(waves) if threads == 1 else 0.4
    assert speed(sim.run(30), after=2) > 0.85 * 30 / 0.8


def test_a_daemon_that_starts_on_a_busy_machine_finds_out() -> None:
    used = simulation().run(10, neighbours=2)
    assert share(used, 1, after=1) > 0.9


def test_counts_that_are_equally_fast_do_not_alternate() -> None:
    used = simulation(lambda threads, _: 0.01, noise=0.2).run(60)
    switches = sum(a != b for (_, a), (_, b) in itertools.pairwise(used))
    assert switches < 40  # a trial and its end are two


@pytest.mark.parametrize("neighbours", [1, 4, 7])
def test_many_cores_leave_the_neighbours_theirs(neighbours: int) -> None:
    sim = simulation(eight_cores, most=8, noise=0.1)
    sim.run(5)
    used = sim.run(20, neighbours)
    best = max(n for n in ladder(8) if n <= 8 - neighbours)
    assert speed(used, after=2) > 0.85 / eight_cores(best, neighbours)
    assert speed(sim.run(20), after=4) > 0.85 / eight_cores(8, 0)


def test_what_decoding_learned_holds_for_the_next_prompt() -> None:
    control = ThreadControl(2)
    decode = Simulation(control, two_cores)
    prompt = Simulation(control, lambda t, n: two_cores(t, n) / 2, work="prefill", width=45)
    decode.run(2)
    assert share(prompt.run(0.5), 2) == 1
    decode.run(1, neighbours=2)  # too short for a trial of the prompt's own
    assert control.choose("prefill", 45) == 1


def test_a_width_where_more_threads_pay_keeps_them() -> None:
    """Beside one neighbour a long prompt gains from the second core, single tokens lose."""
    control = ThreadControl(2)
    decode = Simulation(control, two_cores, noise=0.1)
    prompt = Simulation(control, lambda t, _: 0.004 / t, work="prefill", width=400)
    used = []
    for _ in range(60):
        prompt.run(0.1)
        used += decode.run(1, neighbours=1)
    assert share(used, 1) > 0.9
    assert control.choose("prefill", 400) == 2


def test_a_pinned_count_never_moves() -> None:
    sim = Simulation(ThreadControl.of(2), two_cores, noise=0.4)
    assert {threads for _, threads in sim.run(5) + sim.run(20, 2) + sim.run(5)} == {2}


def test_how_long_a_batch_takes_is_what_it_took() -> None:
    control = ThreadControl(2, pinned=True)
    assert control.seconds("prefill", 64) is None
    for _ in range(20):
        control.observe("prefill", 128, 2, 0.5)
    near = control.seconds("prefill", 120)
    assert near is not None
    assert 0.4 < near < 0.5
    far = control.seconds("prefill", 16)
    assert far is not None
    assert far < 0.1


@pytest.mark.parametrize("most", range(1, 65))
def test_the_ladder_reaches_from_one_to_all(most: int) -> None:
    counts = ladder(most)
    assert counts[0] == 1
    assert counts[-1] == most
    assert list(counts) == sorted(set(counts))
