"""A round's state in a checkpoint: today's comes back whole, and so does that of version 0.1."""

from types import SimpleNamespace
from typing import Any

from trainer.dual import Dual
from trainer.policy.checkpoint import Checkpoint
from trainer.workbench.progress import Look, Progress


class Kept:
    """Checkpoints in memory."""

    def __init__(self, newest: Checkpoint | None = None) -> None:
        self.newest = newest

    def load(self) -> Checkpoint | None:
        return self.newest

    def save(self, checkpoint: Checkpoint) -> None:
        self.newest = checkpoint


def progress(kept: Any) -> Progress:
    learner: Any = SimpleNamespace(tensors=dict, load_tensors=lambda _tensors: None)
    return Progress(learner, Dual("pid", start=0.5, rate=0.3, floor=0.1), kept)


def test_a_round_goes_on_where_its_checkpoint_stands() -> None:
    kept = Kept()
    before = progress(kept)
    before.warm_steps, before.cooling_from, before.steps = 30, 24, 3
    before.looks.add(Look(0.5, 9.0, 0.1))
    before.worths, before.foreseen, before.hindsight_steps = [0.5], {"q": 0.2}, 4
    before.save()
    after = progress(kept)
    assert (after.warm_steps, after.cooling_from, after.steps) == (30, 24, 3)
    assert after.looks.looks == before.looks.looks
    assert (after.worths, after.foreseen, after.hindsight_steps) == ([0.5], {"q": 0.2}, 4)


def test_every_step_has_a_number_of_its_own() -> None:
    """Checkpoints are told apart by it: one that does not rise would be lost."""
    kept = Kept()
    state = progress(kept)
    numbers = []
    for name in ("warm_steps", "warm_done", "steps", "reinforced", "hindsight_steps"):
        setattr(state, name, 1)
        state.save()
        assert kept.newest is not None
        numbers.append(kept.newest.step)
    assert numbers == sorted(set(numbers))


def test_time_that_was_spent_before_an_interruption_counts() -> None:
    kept = Kept()
    progress(kept).save()
    assert kept.newest is not None
    kept.newest.state["seconds"] = 100.0
    assert progress(kept).seconds >= 100.0


def test_an_interrupted_round_of_version_0_1_goes_on() -> None:
    state = {
        "warm_steps": 24,
        "warm_done": False,
        "probes": [0.1],
        "answer_nlls": {"sums": [1.0]},
        "steps": 0,
        "dual": [0.5, 0.5, None],
    }
    found = progress(Kept(Checkpoint(24, {}, state)))
    assert (found.warm_steps, found.warm_done, found.steps) == (24, False, 0)
    assert found.looks.looks == []
    assert found.cooling_from is None
    assert found.answer_nlls == {"sums": [1.0]}
