"""An hour of modest use with training and swaps: nothing grows, nothing is lost: `make soak-hour`.

A daemon on the real small model, a reference cloud that fails now and then, six clients that ask,
leave and converse, rounds by `edge-agent train`, and three swaps a minute by `edge-agent adapters`.
At the end of each minute, with the base model served again and its caches filled to their bounds,
so that like is compared with like, a sample is taken. It fails if memory grew, a count is not back
at its idle value, a request failed or an acknowledged answer is not in the log.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import requests

from models import catalog
from models.adapters.registry import AdapterRegistry
from tests.edge_agent.engine.engine_harness import write_lora
from tests.end_to_end.processes import Running, running
from tests.soak.crash import MODEL, examine
from tests.soak.soak_clients import Clients
from tests.soak.soak_rounds import SETTINGS, Rounds
from tests.soak.soak_samples import Sample, counts, grown, left

CELLS = 2048
_FAULTS = ("server_error=0.03", "rate_limit=0.03", "cut=0.03", "stall=0.01")
_IN_TIME_S = 180
_QUESTION = {
    "model": "edge-local",
    "temperature": 0,
    "max_tokens": 8,
    "ignore_eos": True,
}
_PROMPTS = 16
_WORDS = 50
"""So long and so many that together they take more cells than there are."""


class Soak:
    """One data directory, its daemon and its clients."""

    def __init__(self, home: Path, seed: int, *, eager: bool = False) -> None:
        """`eager`: rounds compete for the processor, where a shared machine is never idle."""
        self.data_dir = home / "data"
        self.swaps = 0
        self.samples: list[Sample] = []
        self.found: dict[str, Any] = {}
        """What the JSON document says besides the samples."""
        self._home = home
        self._seed = seed
        self._train = ("train",) if eager else ("train", "--idle")
        self._rng = random.Random(seed)
        model = catalog.resolve(MODEL, self.data_dir)
        self._registry = AdapterRegistry(self.data_dir / "adapters", base_sha256=model.base_sha256)
        for number in (1, 2):
            lora = write_lora(home / f"{number}.gguf", model.shipped, scale=0.05 * number)
            self._registry.add(
                {"adapter.gguf": lora}, base_model=MODEL, base_sha256=model.base_sha256
            )

    def run(
        self, minutes: int, *, minute_s: float, pause_s: float, told: Callable[[str], None]
    ) -> list[str]:
        """Everything; what there is to object to, nothing if all is well."""
        cloud_options = [option for fault in _FAULTS for option in ("--fault", fault)]
        with running(
            *("reference-cloud", "--port", "0", "--latency-ms", "50", *cloud_options),
            data_dir=self._home / "cloud",
        ) as cloud:
            options = ("--cloud-url", cloud.base_url, "--cloud-model", "reference-cloud")
            with running(
                *("serve", "--port", "0", "--threads", "1", "--context", str(CELLS), *options),
                data_dir=self.data_dir,
                EDGE_AGENT_BUDGET_RATE="0.5",
                EDGE_AGENT_DECISION_AUDIT="0.1",
                EDGE_AGENT_CLOUD_FIRST_BYTE_TIMEOUT_S="3",
                EDGE_AGENT_TRAIN_ENABLED="false",
            ) as daemon:
                objections = self._live(daemon, minutes, minute_s, pause_s, told)
        if daemon.process.returncode != 0:
            objections.append(f"the daemon ended with status {daemon.process.returncode}")
        self.found["booked_calls"] = examine(
            self.data_dir / "edge-agent.db", self.found.pop("acknowledged")
        )
        return objections

    def _live(
        self,
        daemon: Running,
        minutes: int,
        minute_s: float,
        pause_s: float,
        told: Callable[[str], None],
    ) -> list[str]:
        ask(daemon)
        before = self._idle(daemon)
        clients = Clients(daemon.url, pause_s=pause_s, seed=self._seed)
        rounds = Rounds(clients, self._registry, self._round, self._home / "train.log")
        with clients, rounds:
            for minute in range(1, minutes + 1):
                self._minute(daemon, minute_s)
                fill_caches(daemon)
                self.samples.append(self._sample(daemon, minute, clients, rounds))
                told(json.dumps({**asdict(self.samples[-1]), **clients.errors}))
        after = self._idle(daemon, before)
        self.found |= {
            "acknowledged": clients.acknowledged,
            "answers": dict(clients.answers),
            "errors": dict(clients.errors),
            "rounds": dict(rounds.ended),
            "swaps": self.swaps,
            "idle_before": before,
            "idle_after": after,
        }
        return [
            *(f"{count} times {error}" for error, count in clients.errors.items()),
            *(f"a round failed: {failure}" for failure in rounds.failures),
            *grown(self.samples),
            *left(before, after),
        ]

    def _minute(self, daemon: Running, minute_s: float) -> None:
        """A version, the one before it, and the base model again; each served before the next."""
        ends = time.monotonic() + minute_s
        for part in (1, 2, 3):
            time.sleep(max(0.0, ends - time.monotonic()) / (5 - part))
            if part == 1:
                usable = [v for v in self._registry.versions() if v.manifest.status != "rejected"]
                self._swap("activate", self._rng.choice(usable[-4:]).version)
            elif part == 2:
                self._swap("rollback")
            else:
                self._swap("activate", "base")
            self._taken_up(daemon)
        time.sleep(max(0.0, ends - time.monotonic()))
        self._base(daemon)

    def _base(self, daemon: Running) -> None:
        """Serve the base model and nothing else, also where a round has just been promoted."""
        while self._taken_up(daemon) != "base":
            self._swap("activate", "base")

    def _swap(self, *arguments: str) -> None:
        process = self._start("adapters", *arguments, stdout=subprocess.DEVNULL)
        assert process.wait() == 0, arguments
        self.swaps += 1

    def _round(self, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        return self._start(*self._train, *arguments, **options)

    def _start(self, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        environ = {
            "EDGE_AGENT_DATA_DIR": str(self.data_dir),
            "EDGE_AGENT_CONFIG": str(self.data_dir / "config.toml"),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "edge_agent", *arguments],
            text=True,
            env={**os.environ, **environ, **SETTINGS},
            **options,
        )

    def _taken_up(self, daemon: Running) -> str:
        """Wait until the daemon serves what the registry says, and nothing else any more."""
        deadline = time.monotonic() + _IN_TIME_S
        while True:
            status = daemon.get("/v1/status")
            active = self._registry.active()
            wanted = active.version if active else "base"
            if status["adapter"]["version"] == wanted and status["engine"]["kv_cells"] == CELLS:
                return wanted
            assert time.monotonic() < deadline, f"{wanted} is not served: {status}"
            time.sleep(0.2)

    def _sample(self, daemon: Running, minute: int, clients: Clients, rounds: Rounds) -> Sample:
        memory, now = psutil.Process(daemon.process.pid).memory_info(), counts(daemon)
        wal = self.data_dir / "edge-agent.db-wal"
        return Sample(
            minute=minute,
            rss_mb=round(memory.rss / 1e6, 1),
            anonymous_mb=round((memory.rss - getattr(memory, "shared", 0)) / 1e6, 1),
            files=now["files"],
            threads=now["threads"],
            kv_used=now["kv_used"],
            wal_mb=round(wal.stat().st_size / 1e6, 2),
            answers=clients.answers.total(),
            errors=clients.errors.total(),
            rounds=rounds.ended.total(),
            swaps=self.swaps,
        )

    def _idle(self, daemon: Running, before: Mapping[str, int] | None = None) -> dict[str, int]:
        """What it holds when nobody asks, on a fresh runner; waits, for a time, to see `before`."""
        self._swap("activate", "v0001")
        self._taken_up(daemon)
        self._base(daemon)
        ask(daemon)
        deadline = time.monotonic() + _IN_TIME_S
        while True:
            now = counts(daemon)
            busy = now["running"] or now["clients"] or left(before or now, now)
            if not busy or time.monotonic() > deadline:
                return now
            time.sleep(0.2)


def ask(daemon: Running, question: str = "Count.") -> None:
    """One question to the local model."""
    url = f"{daemon.base_url}/chat/completions"
    body = {**_QUESTION, "messages": [{"role": "user", "content": question}]}
    requests.post(url, json=body, timeout=_IN_TIME_S).raise_for_status()


def fill_caches(daemon: Running) -> None:
    """Bring all that a runner makes when it is first needed, and keeps, to its bound.

    That is the embedding context, the prefill context and the host copies of prefixes. A swap
    frees them: without this a sample would tell what happened to be asked since the last one.
    """
    embedding = {"model": "edge-local", "input": "Count."}
    url = f"{daemon.base_url}/embeddings"
    requests.post(url, json=embedding, timeout=_IN_TIME_S).raise_for_status()
    with ThreadPoolExecutor(_PROMPTS) as pool:
        list(pool.map(lambda number: ask(daemon, f"{number} " * _WORDS), range(_PROMPTS)))
    ask(daemon)  # at each of its steps one of those prefixes is copied out


def main() -> None:
    """Print a line a minute and a JSON document at the end; status 1 if there are objections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--pause", type=float, default=4.0, help="of a client, mean, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eager", action="store_true", help="train at ordinary priority")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-agent-soak-") as name:
        soak = Soak(Path(name), options.seed, eager=options.eager)
        objections = soak.run(
            options.minutes,
            minute_s=60,
            pause_s=options.pause,
            told=lambda line: print(line, flush=True),
        )
    samples = [asdict(sample) for sample in soak.samples]
    print(json.dumps({**soak.found, "objections": objections, "samples": samples}))
    sys.exit(bool(objections))


if __name__ == "__main__":
    main()
