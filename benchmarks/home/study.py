"""The study: days of commands to a real daemon, a round of training after each, measurements.

    English day ─▶ round ─▶ measure ─▶ German day ─▶ round ─▶ measure ─▶ English day ─▶ round ─▶ …

Daemon, trainer and reference cloud run as processes on a data directory of their own. Each piece
that is done is a JSON file: an interrupted study goes on with the pieces that are not there.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.continual.records import write
from benchmarks.demo.processes import Processes
from benchmarks.home import figures, workload
from benchmarks.home.app import App, is_right
from benchmarks.home.grammar import Command
from benchmarks.home.workload import Workload
from benchmarks.reference_cloud.replies import Replies
from edge_agent.client.daemon import DaemonClient
from edge_agent.errors import EdgeAgentError

ACCURACY = 0.97
"""Of the reference cloud."""
RATE = 0.3
"""τ."""
_CHUNK = 100
"""Commands of a day that are one piece of work."""
_SAMPLES = 5
"""Sampled answers whose agreement is looked at."""
_SWAP_S = 60
_MEMORY_MB = 16_000
"""Of a round: enough for a model of 3B."""


class Narrator(Protocol):
    """Who is told how it goes."""

    def say(self, text: str) -> None:
        """A line."""
        ...

    def event(self, event: Mapping[str, Any]) -> None:
        """What the trainer reports."""
        ...


@dataclass(frozen=True, slots=True)
class Day:
    """One day of the app's work."""

    name: str
    language: str
    first: int
    """Of the language's stream."""
    count: int


@dataclass(frozen=True)
class Plan:
    """Sizes of a study."""

    queries: int = 500
    """Commands of a day."""
    held_out: int = 150
    minutes: float = 10
    """Of learning in a round."""
    languages: tuple[str, ...] = ("en", "de", "en")
    """Of the days."""
    agreement: bool = True

    @property
    def days(self) -> list[Day]:
        """The days in order; a language that comes again goes on in its stream."""
        seen: Counter[str] = Counter()
        days = []
        for number, language in enumerate(self.languages, 1):
            first = seen[language] * self.queries
            seen[language] += 1
            name = f"{number}-{language}"
            days.append(Day(name, language, first, self.queries))
        return days


class Study:
    """One seed."""

    def __init__(self, folder: Path, plan: Plan, seed: int, *, model: str, told: Narrator) -> None:
        """`folder` keeps the pieces, and under `data` what the daemon works with."""
        self._pieces = folder / f"seed-{seed}"
        self._data = folder / "data" / f"seed-{seed}"
        self._plan = plan
        self._seed = seed
        self._model = model
        self._told = told

    def run(self) -> None:
        """Everything that is not done yet."""
        self._data.mkdir(parents=True, exist_ok=True)
        (self._data.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        self._require_same_plan()
        if self._has(f"{self._plan.days[-1].name}-measure"):
            return
        plan = self._plan
        repeats = Counter(plan.languages)
        loads = {
            language: workload.draw(
                language,
                stream=repeats[language] * plan.queries,
                held_out=plan.held_out,
                seed=self._seed,
            )
            for language in repeats
        }
        answers = workload.answers(list(loads.values()))
        path = self._data / "answers.jsonl"
        lines = (json.dumps({"question": q, "answer": a}) for q, a in answers.items())
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        replies = Replies(accuracy=ACCURACY, seed=self._seed, answers=answers)
        processes = Processes(self._data, model=self._model)
        with (
            processes.reference_cloud(accuracy=ACCURACY, seed=self._seed, answers=path) as cloud,
            processes.daemon(cloud, rate=RATE) as client,
        ):
            for number, day in enumerate(plan.days):
                seen = list(dict.fromkeys(d.language for d in plan.days[: number + 1]))
                self._work(App(client), day, loads[day.language])
                self._train(processes, client, day, number + 1)
                self._measure(App(client), day, {name: loads[name] for name in seen}, replies)

    def _require_same_plan(self) -> None:
        """Pieces of two plans do not mix. Raises EdgeAgentError."""
        plan = json.loads(json.dumps(asdict(self._plan)))
        if not self._has("plan"):
            self._save("plan", plan)
        elif json.loads((self._pieces / "plan.json").read_text(encoding="utf-8")) != plan:
            raise EdgeAgentError(
                f"{self._pieces} holds a study of another plan; give another --out, or remove it"
            )

    def _has(self, piece: str) -> bool:
        return (self._pieces / f"{piece}.json").exists()

    def _save(self, piece: str, value: Mapping[str, Any]) -> None:
        write(self._pieces / f"{piece}.json", value)

    def _work(self, app: App, day: Day, load: Workload) -> None:
        commands = load.stream[day.first : day.first + day.count]
        for start in range(0, len(commands), _CHUNK):
            piece = f"{day.name}-asked-{start // _CHUNK}"
            if self._has(piece):
                continue
            answered = app.ask_all(commands[start : start + _CHUNK], log=True)
            self._save(piece, {"answers": [a.as_dict() for a in answered]})
            asked = sum(a.asked for a in answered) / len(answered)
            right = sum(a.right for a in answered) / len(answered)
            self._told.say(
                f"{day.name}: {start + len(answered)} of {len(commands)} asked; of the last "
                f"{len(answered)} {right:.0%} right, {asked:.0%} by the cloud"
            )

    def _train(self, processes: Processes, client: DaemonClient, day: Day, number: int) -> None:
        """Round `number` = 1, 2, …, which follows the day's work."""
        piece = f"{day.name}-round"
        if self._has(piece):
            return
        settings = {
            "EDGE_AGENT_TRAIN_MINUTES": str(self._plan.minutes),
            "EDGE_AGENT_TRAIN_MEMORY_MB": str(_MEMORY_MB),
        }
        rounds = client.get("/v1/training")["rounds"]
        judged = [row for row in rounds if row["state"] in ("promoted", "rejected")]
        if len(judged) >= number:  # it ended, and what asked for it did not live to note it
            row = judged[number - 1]
            end = {key: row[key] for key in ("state", "adapter", "gate")} | {"round": row["id"]}
            self._save(piece, {"end": end, "steps": {}, "seconds": {}, "notes": []})
            return
        resume = bool(rounds) and rounds[-1]["state"] in ("interrupted", "running")
        events: list[Mapping[str, Any]] = []

        def event(said: Mapping[str, Any]) -> None:
            events.append(said)
            self._told.event(said)

        end = processes.train(settings, event, resume=resume, idle=False)
        if end["state"] == "promoted":
            self._wait_for(client, end["adapter"])
        steps = Counter(e["phase"] for e in events if e["event"] == "step")
        spent: Counter[str] = Counter()
        for said in events:
            if said["event"] == "step":
                spent[said["phase"]] += said["seconds"]
        notes = [e["text"] for e in events if e["event"] == "note"]
        self._save(piece, {"end": end, "steps": steps, "seconds": spent, "notes": notes})
        self._told.say(f"{day.name}: round {end['round']} {end['state']}: {end['gate']['reason']}")

    def _wait_for(self, client: DaemonClient, adapter: str) -> None:
        deadline = time.monotonic() + _SWAP_S
        while client.get("/v1/status")["adapter"]["version"] != adapter:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the daemon does not serve {adapter}")
            time.sleep(0.2)

    def _measure(self, app: App, day: Day, loads: Mapping[str, Workload], replies: Replies) -> None:
        for language, load in loads.items():
            for side, commands in (("", load.held_out), ("-other", load.other_templates)):
                piece = f"{day.name}-measure-{language}{side}"
                if not self._has(piece):
                    self._save(piece, self._measured(app, commands, replies))
                    self._told.say(f"{day.name}: {language}{side}: {self._line(piece)}")
        self._save(f"{day.name}-measure", {})

    def _measured(self, app: App, commands: Sequence[Command], replies: Replies) -> dict[str, Any]:
        decided = app.ask_all(commands, log=False)
        local = app.ask_all(commands, model="edge-local", log=False)
        cloud = [is_right_of(command, replies) for command in commands]
        agreement = self._agreement(app, commands) if self._plan.agreement else None
        return {
            "moment": figures.moment(decided, local, cloud, agreement).as_dict(),
            "curves": figures.curves(decided, local, cloud, agreement),
            "decided": [a.as_dict() for a in decided],
            "local": [a.as_dict() for a in local],
            "cloud": cloud,
            "agreement": agreement,
        }

    def _agreement(self, app: App, commands: Sequence[Command]) -> list[float]:
        sampled = [
            app.ask_all(commands, model="edge-local", log=False, temperature=1.0)
            for _ in range(_SAMPLES)
        ]
        return [
            Counter(a.answer for a in answers).most_common(1)[0][1] / _SAMPLES
            for answers in zip(*sampled, strict=True)
        ]

    def _line(self, piece: str) -> str:
        found = json.loads((self._pieces / f"{piece}.json").read_text(encoding="utf-8"))["moment"]
        return ", ".join(
            f"{name} {found[name]:.2f}" if isinstance(found[name], float) else f"{name} –"
            for name in ("local", "agent", "asked", "auc_served", "auc_first_token", "auc_draft")
        )


def is_right_of(command: Command, replies: Replies) -> bool:
    """Whether the reference cloud's answer to the command is right."""
    return is_right(command, replies.reply(command.text)[0])
