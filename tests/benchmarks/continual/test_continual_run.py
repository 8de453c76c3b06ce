"""The protocol runs whole on a tiny model, goes on where it stopped, and is reported."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.continual import plots, report
from benchmarks.continual.methods import METHODS
from benchmarks.continual.plan import Protocol, files, runs
from benchmarks.continual.records import Store
from benchmarks.continual.run import Benchmark
from benchmarks.continual.summary import summarise
from edge_agent.errors import EdgeAgentError
from trainer.workbench.workbench import Workbench


class Watcher:
    """Remembers; interrupts, as Ctrl-C does, at the step that is told."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.units: list[tuple[str, int]] = []
        self.titles: list[str] = []
        self.count = 0
        self._stop_at = stop_at

    def begin(self, units: int) -> None:
        """Not of interest."""

    def unit(self, run: str, phase: int) -> None:
        """Remembered."""
        self.units.append((run, phase))

    def unit_done(self) -> None:
        """Not of interest."""

    def steps(self, title: str, total: int) -> None:
        """Remembered."""
        self.titles.append(title)

    def step_done(self) -> None:
        """Counted."""
        self.count += 1
        if self.count == self._stop_at:
            raise KeyboardInterrupt


def test_interrupted_it_goes_on_and_ends_in_a_report(
    bench: Workbench, tiny_protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "out")
    store.open(tiny_protocol)
    first = Watcher(stop_at=4)  # one step of the warm start, two of a phase, one of the next
    with pytest.raises(KeyboardInterrupt):
        Benchmark(bench, tiny_protocol, store, first).run()
    assert first.units[-1][1] == 2
    partial = summarise(store, tiny_protocol)
    assert not partial.studies["main"]
    assert len(partial.missing) == len(runs(tiny_protocol))

    second = Watcher()
    Benchmark(bench, tiny_protocol, store, second).run()
    assert second.units[0] == first.units[-1], "only the phase under way is done again"
    assert not set(second.units) & set(first.units[:-1])
    assert (first.titles + second.titles).count("warm start") == 1, "shared by all methods"
    (kept,) = (store.folder / "adapters").glob("*/phase-*")
    assert kept.parent.name == "warm-rate-0.3-seed-0", "the others are no longer needed"
    _whole(store, tiny_protocol)
    monkeypatch.setattr("sys.argv", ["edge-agent", "benchmark", "continual", "--quick"])
    _reported(store, tiny_protocol)

    with store.claim("somebody", wait=False) as first_in:
        assert first_in
        with Store(store.folder).claim("somebody", wait=False) as second_in:
            assert not second_in

    third = Watcher()
    Benchmark(bench, tiny_protocol, store, third).run()
    assert third.units == []
    with pytest.raises(EdgeAgentError, match="other values of steps"):
        store.open(tiny_protocol.model_copy(update={"steps": 3}))


def test_processes_on_one_folder_share_the_work(
    bench: Workbench, tiny_protocol: Protocol, tmp_path: Path
) -> None:
    protocol = tiny_protocol.model_copy(
        update={"studies": ("main",), "methods": ("ours", "gapg", "sft"), "look_items": 0}
    )
    store = Store(tmp_path / "out")
    store.open(protocol)
    theirs, *rest = runs(protocol)
    with store.claim(theirs.name, wait=False):
        Benchmark(bench, protocol, store, Watcher()).run()
    done = {path.parent.name for path in (store.folder / "runs").glob("*/phase-2.json")}
    assert done == {run.name for run in rest}
    again = Watcher()
    Benchmark(bench, protocol, store, again).run()
    assert {name for name, _ in again.units} == {theirs.name}


def _whole(store: Store, protocol: Protocol) -> None:
    """Every method saw the same questions and the same cloud."""
    clouds: set[Sequence[tuple[str, float]]] = set()
    for run in runs(protocol):
        reinforced = run.variant.how.learning == "reinforced"
        for name, number in files(run, protocol):
            phase = store.load(name, number)
            clouds.add(tuple((record.key, record.cloud) for record in phase.records))
            assert not number or len(phase.steps) == protocol.steps
            assert bool(phase.labels) is (reinforced and number > 0)
            learns = run.variant.how.learning != "none"
            assert len(phase.warm) == (protocol.warm_steps if learns and number > 1 else 0)
    assert len(clouds) == 1
    changed = [run for run in runs(protocol) if run.variant.changed_rate is not None]
    assert len(changed) == 3
    for run in changed:
        rates = [step.rate for n in (1, 2) for step in store.load(run.name, n).steps]
        assert rates == [0.3, 0.3, 0.3, 0.1]


def _reported(store: Store, protocol: Protocol) -> None:
    summary = summarise(store, protocol)
    assert not summary.missing
    assert [row.variant.method for row in summary.studies["main"]] == list(METHODS)
    pictures = plots.draw(summary, store.folder)
    assert {p.stem for p in pictures} == {"accuracy", "rate", "dual", "cost-quality", "forgetting"}
    path = report.write(summary, store.folder, pictures)
    text = path.read_text()
    assert "`edge-agent benchmark continual --quick`" in text
    for title in (how.title for how in METHODS.values()):
        assert f"| {title} |" in text
    assert "**One seed**" in text
    (store.folder / "runs").rename(store.folder / "elsewhere")
    short = summarise(Store.to_read(store.folder), protocol)
    assert (
        report.write(short, store.folder, pictures).read_text().splitlines()[5:]
        == (text.splitlines()[5:])
    ), "the summary is enough for the report"
    (store.folder / "elsewhere").rename(store.folder / "runs")
    values = json.loads((store.folder / "summary.json").read_text())
    main = {row["variant"]["method"]: row for row in values["studies"]["main"]}
    always, never = main["always"]["figures"], main["never"]["figures"]
    assert always["rate"] == [1.0]
    assert never["rate"] == [0.0]
    assert never["joint_post_switch"] == never["local_post_switch"]
    assert len(main["ours"]["matrices"]["joint"][0]) == 3
