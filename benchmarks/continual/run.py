"""The workbench that all methods share: one engine, one set of graders, temporary data.

Runs the protocol, unit by unit. What is done is on disk; what is not is done now.

Several processes may work on one folder: each takes whole runs that nobody else is at.
"""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.continual import router
from benchmarks.continual.families import SOURCES
from benchmarks.continual.plan import Protocol, Run, files, runs
from benchmarks.continual.progress import Watcher
from benchmarks.continual.records import Look, Phase, Record, Step, Store
from benchmarks.continual.tasks import Task, Tasks, items, key
from benchmarks.continual.training import PhaseTraining, learner_settings, warm_start, window
from benchmarks.runtime.servers import temporary_data
from edge_agent.config.settings import Settings
from edge_agent.errors import EdgeAgentError
from edge_agent.records.generation import ServedModel
from trainer.data.items import Item
from trainer.dual import Dual
from trainer.gate.evaluate import Result, evaluate
from trainer.learner import Learner
from trainer.workbench.workbench import Workbench


@contextlib.contextmanager
def workbench(settings: Settings, protocol: Protocol) -> Iterator[Workbench]:
    """A workbench for `protocol`; of the user's own only the models are seen, nothing is written.

    The weights are what the daemon would serve: the choice of `models tune`, if there is one.
    """
    with temporary_data(settings) as folder:
        engine = {"context": protocol.context, "threads": protocol.threads}
        own = settings.model_copy(
            update={
                "data_dir": folder,
                "model": protocol.model,
                "decision": settings.decision.model_copy(update={"window": 1}),
                "engine": settings.engine.model_copy(update=engine),
                "train": protocol.train,
            }
        )
        with Workbench(own) as bench:
            yield bench


class Benchmark:
    """One protocol on an open workbench."""

    def __init__(
        self, bench: Workbench, protocol: Protocol, store: Store, watcher: Watcher
    ) -> None:
        self.bench = bench
        self.protocol = protocol
        self.store = store
        self.watcher = watcher
        self._data: tuple[int, dict[str, Tasks]] = (-1, {})

    def run(self) -> None:
        """Everything that is not done yet. KeyboardInterrupt loses at most the phase under way."""
        adapters = self.store.folder / "adapters"
        adapters.mkdir(parents=True, exist_ok=True)
        (adapters / ".gitignore").write_text("*\n", encoding="utf-8")
        every = runs(self.protocol)
        units = dict.fromkeys(unit for run in every for unit in files(run, self.protocol))
        self.watcher.begin(sum(not self.store.has(*unit) for unit in units))
        for run in every:
            if all(self.store.has(*unit) for unit in files(run, self.protocol)):
                continue
            with self.store.claim(run.start, wait=True):
                self._unit(run, run.start, 0)
            with self.store.claim(run.name, wait=False) as ours:
                for unit in files(run, self.protocol)[1:] if ours else ():
                    self._unit(run, *unit)

    def _unit(self, run: Run, name: str, phase: int) -> None:
        """One file, if it is not there."""
        if self.store.has(name, phase):
            return
        self.watcher.unit(name, phase)
        self.bench.sampler.window = window(self.protocol, run.variant.how)
        if phase == 0:
            self._start(run)
        else:
            self._phase(run, phase)
        self.watcher.unit_done()

    # --- the two kinds of unit ------------------------------------------------------------------

    def _start(self, run: Run) -> None:
        """Phase 0, shared: the untrained model, or the warm start of a seed and rate."""
        began = time.monotonic()
        steps: tuple[Step, ...] = ()
        if run.start.startswith("untrained"):
            asyncio.run(self.bench.engine.activate(ServedModel(self.bench.weights)))
        else:
            steps = self._warm_start(run)
        records = self._records(run, 0, ())
        self.store.save(Phase(run.start, 0, None, time.monotonic() - began, steps, (), records))

    def _warm_start(self, run: Run) -> tuple[Step, ...]:
        """Train the adapter that the runs of this seed and rate copy; the engine serves it."""
        data = self._tasks(run.seed)
        count = 1 if self.protocol.warm == "switch" else None
        stream = [task for family in self.protocol.families[:count] for task in data[family].stream]
        learner = self._learner(run, None)
        self.watcher.steps("warm start", self.protocol.warm_steps)
        steps = warm_start(
            self.bench,
            learner,
            self._items(stream),
            self.protocol,
            how=run.variant.how,
            rate=run.variant.rate,
            seed=run.seed,
            told=self.watcher.step_done,
        )
        learner.lora.save(self.store.adapter(run.start, 0))
        self.bench.sampler.load(learner)
        return steps

    def _phase(self, run: Run, phase: int) -> None:
        """Train one phase and measure what came of it."""
        began = time.monotonic()
        family = self.protocol.families[phase - 1]
        training, warm, steps, looks = self._train(run, phase, family)
        records = self._records(run, phase, training.labels)
        self.store.save(
            Phase(
                run.name,
                phase,
                family,
                time.monotonic() - began,
                steps,
                looks,
                records,
                tuple(training.labels),
                tuple(training.dual.state),
                warm,
            )
        )
        if phase > 1:
            shutil.rmtree(self.store.adapter(run.name, phase - 1), ignore_errors=True)
        if phase == len(self.protocol.families):
            shutil.rmtree(self.store.adapter(run.name, phase).parent, ignore_errors=True)

    def _before(self, run: Run, phase: int) -> Path | None:
        """The adapter that a phase goes on from; None: the model as it is."""
        name = run.name if phase > 1 else run.start
        if name.startswith("untrained"):
            return None
        folder = self.store.adapter(name, phase - 1)
        if not folder.exists():
            raise EdgeAgentError(
                f"the adapter {folder} is gone, though its figures are there; remove "
                f"{self.store.path(name, phase - 1).parent} to train it again"
            )
        return folder

    def _train(
        self, run: Run, phase: int, family: str
    ) -> tuple[PhaseTraining, tuple[Step, ...], tuple[Step, ...], tuple[Look, ...]]:
        learner = self._learner(run, self._before(run, phase))
        if phase == 1:
            learner.promoted = None  # the warm start was never promoted: no KL holds on to it
        data = self._tasks(run.seed)
        done = self.protocol.families[: phase - 1]
        training = PhaseTraining(
            self.bench,
            learner,
            run.variant,
            self.protocol,
            phase,
            run.seed,
            fresh=self._items(data[family].stream),
            old=[item for name in done for item in self._items(data[name].stream)],
            dual=self._dual(run, phase),
        )
        looks: list[Look] = []

        def after(number: int, _step: Step) -> None:
            self.watcher.step_done()
            due = (number + 1) % self.protocol.look_every == 0
            if due and self.protocol.look_items and number + 1 < self.protocol.steps:
                self.bench.sampler.load(learner)
                looks.extend(self._look(run.seed, (*done, family), number + 1))

        warm: tuple[Step, ...] = ()
        if training.warms:
            self.watcher.steps(f"warm start: {family}", self.protocol.warm_steps)
            warm = training.warm(self.watcher.step_done)
        self.watcher.steps(family, self.protocol.steps)
        steps = training.run(after)
        self.bench.sampler.load(learner)
        learner.lora.save(self.store.adapter(run.name, phase))
        return training, warm, steps, tuple(looks)

    def _dual(self, run: Run, phase: int) -> Dual:
        """λ goes on across a switch."""
        dual = run.variant.how.price(run.variant.first_dual or 0.0, run.variant.rate)
        if phase > 1:
            dual.restore(list(self.store.load(run.name, phase - 1).dual_state))
        return dual

    def _learner(self, run: Run, adapter: Path | None) -> Learner:
        return Learner(
            self.bench.weights,
            learner_settings(self.protocol, run.variant.how),
            offload_token=self.bench.offload_token,
            adapter=adapter,
            seed=run.seed,
        )

    # --- data and measurement -------------------------------------------------------------------

    def _tasks(self, seed: int) -> dict[str, Tasks]:
        """The questions of a seed, drawn once."""
        if self._data[0] != seed:
            sizes = (self.protocol.stream, self.protocol.held_out, seed)
            self._data = (seed, {name: SOURCES[name](*sizes) for name in self.protocol.families})
        return self._data[1]

    def _items(self, tasks: Sequence[Task]) -> list[Item]:
        return items(tasks, self.bench, cloud_accuracy=self.protocol.cloud_accuracy)

    def _measure(self, tasks: Sequence[Task]) -> list[Result]:
        return evaluate(
            self.bench.engine,
            self._items(tasks),
            self.bench.graders,
            max_tokens=self.protocol.max_new_tokens,
            window=self.bench.sampler.window,
        )

    def _records(
        self, run: Run, phase: int, labels: Sequence[tuple[str, float]]
    ) -> tuple[Record, ...]:
        """Every held-out question of every family, answered by what the engine serves now."""
        data = self._tasks(run.seed)
        tasks = [task for family in self.protocol.families for task in data[family].held_out]
        routed = self._routed(run, phase, labels, [task.text for task in tasks])
        return tuple(
            Record(
                key=key(task.text),
                family=task.family,
                hard=task.hard,
                local=result.reward_local,
                cloud=result.reward_offload,
                p_offload=result.p_offload,
                confidence=result.confidence,
                router=right,
            )
            for task, result, right in zip(tasks, self._measure(tasks), routed, strict=True)
        )

    def _routed(
        self, run: Run, phase: int, labels: Sequence[tuple[str, float]], questions: Sequence[str]
    ) -> Sequence[float | None]:
        """The external router's view, learned from this run's rollouts so far."""
        nothing = [None] * len(questions)
        if run.variant.how.asks != "router" or phase == 0:
            return nothing
        earlier = [pair for p in range(1, phase) for pair in self.store.load(run.name, p).labels]
        pairs = [*earlier, *labels]
        embedder = self.bench.embedder()
        if embedder is None or not pairs:
            return nothing
        return router.scores(embedder.embed, pairs, questions)

    def _look(self, seed: int, families: Sequence[str], step: int) -> list[Look]:
        data = self._tasks(seed)
        looks = []
        for family in families:
            results = self._measure(data[family].held_out[: self.protocol.look_items])
            looks.append(Look.of(step, family, results))
        return looks
