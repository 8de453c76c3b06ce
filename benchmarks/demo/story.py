"""The demo from start to end: ask, train, swap, switch to other work, train again, measure."""

import contextlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.demo import figures
from benchmarks.demo.families import (
    ARITHMETIC,
    RATE,
    WORDS,
    Family,
    Plan,
    Question,
    Questions,
    draw,
)
from benchmarks.demo.figures import Live, Measured
from benchmarks.demo.processes import Processes
from benchmarks.demo.traffic import Answered, App, LightStream
from edge_agent.client.daemon import DaemonClient

FAMILIES = (ARITHMETIC, WORDS)
CLOUD_ACCURACY = 0.95
_SWAP_S = 30
"""The daemon looks for a new adapter every second; loading it takes about one more."""


class Narrator(Protocol):
    """Who tells the user what happens."""

    def say(self, text: str) -> None:
        """A paragraph."""
        ...

    def progress(self, title: str, total: int) -> contextlib.AbstractContextManager[Any]:
        """A bar of `total` steps; the context's value advances it by one when called."""
        ...

    def training(self) -> contextlib.AbstractContextManager[Any]:
        """Bars of a round; the context's value takes the trainer's events."""
        ...


@dataclass(frozen=True, slots=True)
class Round:
    """One round as it was seen from outside."""

    number: int
    family: str
    promoted: bool
    reason: str
    seconds: float
    swap_s: float | None
    """From the end of the round until the daemon served the new adapter; None if rejected."""
    live: Live


@dataclass
class Findings:
    """All that the demo found out."""

    plan: Plan
    moments: dict[str, dict[str, Measured]] = field(default_factory=dict)
    """Moment → family (and "all", where there are two) → figures."""
    rounds: list[Round] = field(default_factory=list)
    cloud_usd: float = 0.0
    """From the ledger, by /v1/status: streams, audits and measurements."""
    queries: int = 0
    """Asked in all."""
    forced_local: int = 0
    """Of these, asked of the local model by name: they could not go to the cloud."""
    cloud_queries: int = 0
    cloud_accuracy: float = 1.0
    dropped: int = 0
    seconds: float = 0.0

    @property
    def forgetting(self) -> dict[str, float] | None:
        """What the first family lost by learning the second, in joint and local accuracy.

        None if no adapter had learnt it.
        """
        name = FAMILIES[0].name
        before, after = self.moments[_after(0)][name], self.moments[_after(1)][name]
        if not before.trained:
            return None
        return {"joint": before.joint - after.joint, "local": before.local - after.local}


BEFORE = "before"


def _after(index: int) -> str:
    return f"after {FAMILIES[index].name}"


class Story:
    """One run. `tell` does it all."""

    def __init__(self, processes: Processes, narrator: Narrator, plan: Plan, *, seed: int) -> None:
        self._processes = processes
        self._narrator = narrator
        self._plan = plan
        self._seed = seed
        self._answers: list[Answered] = []
        self.findings = Findings(plan)

    def tell(self) -> Findings:
        """Run the demo. Raises EdgeAgentError if a process fails."""
        began = time.monotonic()
        say, plan = self._narrator.say, self._plan
        drawn = {
            family.name: draw(family, stream=plan.stream, held_out=plan.held_out, seed=self._seed)
            for family in FAMILIES
        }
        with self._served() as client:
            app = App(client, {family.name: family for family in FAMILIES})
            say(
                "[bold]Before.[/bold] The small model as it comes, on questions that are never "
                "used for training. Nothing is trained, so the cloud is asked at random, for "
                f"{RATE:.0%} of them: that is the budget."
            )
            self._measure(app, BEFORE, [q for d in drawn.values() for q in d.held_out])
            for index, family in enumerate(FAMILIES):
                self._work(app, family, drawn[family.name], index)
                self._train(app, family, drawn[family.name], client)
                seen = [drawn[f.name].held_out for f in FAMILIES[: index + 1]]
                self._measure(app, _after(index), [q for side in seen for q in side])
            self._settle(client)
        self.findings.seconds = time.monotonic() - began
        return self.findings

    @contextlib.contextmanager
    def _served(self) -> Iterator[DaemonClient]:
        with (
            self._processes.reference_cloud(accuracy=CLOUD_ACCURACY, seed=self._seed) as cloud,
            self._processes.daemon(cloud, rate=RATE) as client,
        ):
            self._narrator.say(
                f"A daemon serves {client.get('/v1/status')['model']['name']} at {client.url}. Its "
                f"cloud is the reference cloud, a stand-in that answers {CLOUD_ACCURACY:.0%} of "
                "the questions right. At most "
                f"{RATE:.0%} of any 100 queries may be sent to it."
            )
            yield client

    def _work(self, app: App, family: Family, questions: Questions, index: int) -> None:
        now = "The app's work begins" if index == 0 else "The app's work changes"
        self._narrator.say(
            f"[bold]{now}: {family.name}.[/bold] {len(questions.stream)} questions: two thirds "
            f"{family.easy_title}, which a small model can learn, one third {family.hard_title}, "
            "which it cannot. The app learns each right answer afterwards and sends it to "
            "/v1/feedback as reference; the log keeps question, decision, answer and reference."
        )
        with self._narrator.progress(f"asking, {family.name}", len(questions.stream)) as done:
            self._answers += app.ask_all(questions.stream, learn=True, done=done)

    def _train(self, app: App, family: Family, questions: Questions, client: DaemonClient) -> None:
        self._narrator.say(
            "[bold]Training[/bold] on that log, in a process of its own at idle priority: first "
            "by imitation (warm start), then by trial (DA-GRPO). Then a gate compares the "
            "new version with the old one on logged queries that were held back. The app goes on "
            "asking meanwhile."
        )
        began = time.monotonic()
        with LightStream(app, questions.stream, self._seed) as stream:
            with self._narrator.training() as event:
                end = self._processes.train(self._plan.train_settings, event)
            ended = time.monotonic()
            promoted = end["state"] == "promoted"
            swap_s = self._wait_for(client, end["adapter"]) if promoted else None
        round_ = Round(
            number=end["round"],
            family=family.name,
            promoted=promoted,
            reason=end["gate"]["reason"],
            seconds=ended - began,
            swap_s=swap_s,
            live=figures.live(stream.answered),
        )
        self.findings.rounds.append(round_)
        self._answers += stream.answered
        self._narrator.say(_ended(round_))

    def _wait_for(self, client: DaemonClient, adapter: str) -> float | None:
        """Seconds until the daemon serves `adapter`; None if it does not."""
        began = time.monotonic()
        while time.monotonic() - began < _SWAP_S:
            if client.get("/v1/status")["adapter"]["version"] == adapter:
                return time.monotonic() - began
            time.sleep(0.1)
        return None

    def _measure(self, app: App, moment: str, questions: Sequence[Question]) -> None:
        """Ask held-out questions twice, mixed: as the agent decides, then locally."""
        mixed = random.Random(self._seed).sample(questions, len(questions))  # noqa: S311
        with self._narrator.progress(f"measuring, {moment}", 2 * len(mixed)) as done:
            decided = app.ask_all(mixed, learn=False, done=done)
            local = app.ask_all(mixed, model="edge-local", learn=False, done=done)
        self._answers += [*decided, *local]
        self.findings.forced_local += len(local)
        families = list(dict.fromkeys(question.family for question in questions))
        found: dict[str, Measured] = {}
        for name in [*families, *(["all"] if len(families) > 1 else [])]:
            found[name] = figures.measure(
                [a for a in decided if name in ("all", a.question.family)],
                [a for a in local if name in ("all", a.question.family)],
                rate=RATE,
                cloud_accuracy=figures.cloud_accuracy(self._answers),
            )
        self.findings.moments[moment] = found
        self._narrator.say(_measured(moment, found))

    def _settle(self, client: DaemonClient) -> None:
        """What all of it cost, from the daemon's own books."""
        found, answers = self.findings, self._answers
        found.cloud_usd = client.get("/v1/status")["budget"]["usd_per_month"]["used"]
        found.queries = len(answers)
        found.cloud_queries = sum(a.asked_cloud for a in answers)
        found.cloud_accuracy = figures.cloud_accuracy(answers)
        found.dropped = sum(a.error is not None for a in answers)


def _measured(moment: str, found: Mapping[str, Measured]) -> str:
    lines = [
        f"{name}: {m.joint:.0%} right with {m.rate:.0%} sent to the cloud "
        f"(easy {m.rate_easy:.0%}, hard {m.rate_hard:.0%}); {m.local:.0%} right alone"
        for name, m in found.items()
        if name != "all"
    ]
    return "\n".join(f"  {line}" for line in lines)


def _ended(round_: Round) -> str:
    live = round_.live
    verdict = (
        f"promoted and serving {round_.swap_s:.1f} s later"
        if round_.promoted and round_.swap_s is not None
        else "promoted, but the daemon does not serve it"
        if round_.promoted
        else "rejected"
    )
    return (
        f"  round {round_.number} after {round_.seconds:.0f} s: {verdict} ({round_.reason}).\n"
        f"  Meanwhile {live.requests} questions, {live.dropped} dropped; median answer "
        f"{live.median_s:.2f} s, slowest {live.slowest_s:.2f} s; answered by "
        f"{', then '.join(live.versions)}."
    )
