"""One round of training, start to end; it can be interrupted anywhere and resumed.

    snapshot of the log ─▶ corpus ─▶ warm start ─▶ DA-GRPO steps ─▶ hindsight
                                   ─▶ export ─▶ gate ─▶ promote or reject

Everything random is a pure function of the seed and the step's number, and a checkpoint is
written after every step: a resumed round goes on as if nothing had happened.
"""

import asyncio
import gc
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_agent.learning.journal import Position
from edge_agent.learning.shift import describe
from edge_agent.records.generation import ServedModel, served_model
from edge_agent.routing.calibration import KEY, of
from models.adapters.version import MERGED, AdapterVersion
from models.llama.memory import give_back_freed
from trainer.data.items import Item
from trainer.dual import FIRST_DUAL, Dual
from trainer.errors import MemoryLimit
from trainer.gate.evaluate import Result, evaluate
from trainer.gate.gate import Verdict, candidate, judge, serving
from trainer.gate.policy_value import Terms, evidence
from trainer.phases.hindsight import Hindsight
from trainer.phases.reinforcement import Reinforcement
from trainer.phases.warm_start import WarmStart
from trainer.policy.checkpoint import Checkpoints
from trainer.policy.export import export
from trainer.workbench import corpus
from trainer.workbench.corpus import Corpus
from trainer.workbench.memory import Gauge
from trainer.workbench.outlook import interrupted
from trainer.workbench.progress import Progress, Watcher
from trainer.workbench.workbench import Workbench


@dataclass(frozen=True)
class Ended:
    """How a round ended."""

    number: int
    verdict: Verdict
    version: str


class Round:
    """One round on an open workbench."""

    def __init__(
        self,
        bench: Workbench,
        watcher: Watcher,
        between: Callable[[], None] = lambda: None,
        gauge: Gauge | None = None,
    ) -> None:
        """`between` runs between micro-batches and yields to live requests.

        `gauge` watches over the memory; None: `train.memory_mb`.
        """
        self.bench = bench
        self.watcher = watcher
        self.gauge = gauge or Gauge(bench.train.memory_mb)
        self._between = between

    def start(self, until: Position) -> Ended:
        """Begin a new round on the log up to `until`.

        Raises TooLittle, RoundRunning, NotTrainable. KeyboardInterrupt and MemoryLimit leave it
        resumable.
        """
        since = self.bench.journal.position_before(None)
        data = self._data(None, since, until)
        changes = corpus.changes(self.bench, data, since=since, until=until)
        parent = self.bench.registry.active()
        number = self.bench.journal.begin(
            until=until,
            base=self.bench.model.entry.name,
            parent=parent.version if parent else "base",
            settings=self.bench.train.model_dump(mode="json") | {"rate": self.bench.rate},
        )
        self.bench.forget_rounds_before(number)
        shift = [change.as_dict() for change in changes]
        self.bench.journal.update(
            number, items=len(data.fresh), held_out=len(data.held_out), shift=shift
        )
        for change in shift:
            self.watcher.say(describe(change))
        return self._run(number, data, parent)

    def resume(self) -> Ended:
        """Go on with the newest interrupted round. Raises TrainerError if there is none."""
        row = interrupted(self.bench.journal)
        self.bench.journal.resume(row["id"])
        before = self.bench.journal.position_before(row["id"])
        until = Position(row["last_seq"], row["last_example"])
        data = self._data(row["id"], before, until)
        parent = None if row["parent"] == "base" else self.bench.registry.verify(row["parent"])
        return self._run(row["id"], data, parent)

    def _data(self, number: int | None, since: Position, until: Position) -> Corpus:
        train = self.bench.train
        taught_until = self.bench.journal.taught_until(number, unseen=train.unseen, seed=train.seed)
        return corpus.build(self.bench, since=since, until=until, taught_until=taught_until)

    def _run(self, number: int, data: Corpus, parent: AdapterVersion | None) -> Ended:
        bench = self.bench
        checkpoints = Checkpoints(
            bench.work / f"round-{number:04d}", base_sha256=bench.model.base_sha256
        )
        try:
            dual = self._learn(number, data, parent, checkpoints)
            gc.collect()  # a model's modules refer to each other
            give_back_freed()
            ended = self._finish(number, data, dual, parent)
        except KeyboardInterrupt:
            bench.journal.end(number, "interrupted", "stopped; `edge-agent train --resume` goes on")
            raise
        except MemoryLimit as error:
            bench.journal.end(number, "interrupted", str(error))
            raise
        except Exception as error:
            bench.journal.end(number, "failed", str(error))
            raise
        checkpoints.clear()
        return ended

    def _learn(
        self, number: int, data: Corpus, parent: AdapterVersion | None, checkpoints: Checkpoints
    ) -> float:
        """Train, and leave the candidate in its folder; returns λ. What it took is free again."""
        bench = self.bench
        learner = bench.learner(parent, self._between_micro_batches)
        progress = Progress(learner, _dual(bench, parent), checkpoints)
        for phase in (WarmStart, Reinforcement, Hindsight):
            phase(bench, self.watcher, progress, number, self.gauge).run(data)
        folder = self._candidate(number)
        shutil.rmtree(folder, ignore_errors=True)
        progress.learner.lora.save(folder)
        return progress.dual.value

    def _between_micro_batches(self) -> None:
        self.gauge.check()
        self._between()

    def _candidate(self, number: int) -> Path:
        return self.bench.work / f"candidate-{number:04d}"

    def _finish(
        self, number: int, data: Corpus, dual: float, parent: AdapterVersion | None
    ) -> Ended:
        """Export, gate, and promote or reject."""
        bench, train = self.bench, self.bench.train
        self.watcher.phase("gate", 0)
        folder = self._candidate(number)
        files = export(folder, bench.model.path)
        terms = Terms(bench.rate, bench.settings.decision.min_gain)
        held_out, setting = data.held_out, bench.settings.decision.after
        before = self._evaluate(served_model(bench.model.path, parent), held_out)
        served = ServedModel(files[MERGED], version="candidate")
        after = self._evaluate(served, [*held_out, *data.unseen])
        new, also = after[: len(held_out)], after[len(held_out) :]
        found = evidence(new, also, terms, drafts=bench.settings.decision.window == 1)
        verdict = judge(
            serving(before, of(parent.manifest.metrics) if parent else None, setting),
            candidate(new, also, found, setting),
            terms=terms,
            tolerance=train.tolerance,
            seed=train.seed,
        )
        version = bench.registry.add(
            files,
            base_model=bench.model.entry.name,
            base_sha256=bench.model.base_sha256,
            parent=parent.version if parent else None,
            round=number,
            metrics={"dual": dual, "clusters": sorted(data.clusters), KEY: found.as_dict()},
        ).version
        shutil.rmtree(folder)
        state: Literal["promoted", "rejected"] = "promoted" if verdict.promote else "rejected"
        bench.registry.set_status(version, state, reason=verdict.reason)
        if verdict.promote:
            bench.registry.activate(version)
        bench.journal.end(number, state, verdict.reason, adapter=version, gate=verdict.as_dict())
        return Ended(number, verdict, version)

    def _evaluate(self, served: ServedModel, items: Sequence[Item]) -> list[Result]:
        """Queries under one version, as the daemon would serve it."""
        bench = self.bench
        asyncio.run(bench.engine.activate(served))
        self.watcher.say(f"measuring {served.version} on {len(items)} held-out queries")
        results = evaluate(
            bench.engine,
            items,
            bench.graders,
            max_tokens=bench.train.max_new_tokens,
            window=bench.settings.decision.window,
        )
        self.gauge.check()
        bench.engine.rest()  # before the next version's weights are loaded
        return results


def _dual(bench: Workbench, parent: AdapterVersion | None) -> Dual:
    """λ goes on where the promoted adapter's round left it; PID then measures where to begin."""
    start = parent.manifest.metrics.get("dual", FIRST_DUAL) if parent else FIRST_DUAL
    floor = bench.settings.decision.min_gain
    return Dual(bench.train.dual, start=float(start), rate=bench.rate, floor=floor)
