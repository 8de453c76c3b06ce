"""Rounds of training during the soak: `edge-agent train`, one after the other."""

import contextlib
import json
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from models.adapters.registry import AdapterRegistry
from models.errors import AdapterError
from tests.soak.soak_clients import Clients
from tests.soak.soak_workers import Workers

SETTINGS = {
    "EDGE_AGENT_TRAIN_THREADS": "1",
    "EDGE_AGENT_TRAIN_PROMPTS_PER_STEP": "4",
    "EDGE_AGENT_TRAIN_GROUP_SIZE": "4",
    "EDGE_AGENT_TRAIN_MAX_NEW_TOKENS": "8",
    "EDGE_AGENT_TRAIN_WARM_START_EPOCHS": "1",
}
_STEPS = "2"
_NEW_QUERIES = 80
"""Between two rounds; the least a round takes is 42, some of them only to test on."""


class Rounds(Workers):
    """Trains until the context ends; the last round is then interrupted, as Ctrl-C would."""

    def __init__(
        self,
        clients: Clients,
        registry: AdapterRegistry,
        start: Callable[..., "subprocess.Popen[str]"],
        log: Path,
    ) -> None:
        """`start` runs `edge-agent train`; what that says on stderr goes to `log`."""
        self.ended: Counter[str] = Counter()
        """Rounds by how they ended."""
        self.failures: list[str] = []
        self._clients = clients
        self._registry = registry
        self._start = start
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        super().__init__(self._run)

    def _interrupt(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def _run(self) -> None:
        learnt = 0
        while not self._over.wait(1):
            if self._clients.learnable - learnt < _NEW_QUERIES:
                continue
            learnt = self._clients.learnable
            try:
                self._round()
            except Exception as error:
                self.failures.append(repr(error))

    def _round(self) -> None:
        last = self._train()
        if last is None:
            return
        self.ended[str(last["state"])] += 1
        if last["state"] == "rejected":
            self._serve_all_the_same(str(last["adapter"]))

    def _train(self) -> Mapping[str, object] | None:
        """One round's last event; None if it failed or was interrupted."""
        with self._log.open("a", encoding="utf-8") as log:
            self._process = self._start(
                "--steps", _STEPS, "--json", stdout=subprocess.PIPE, stderr=log
            )
            said, _ = self._process.communicate()
        if self._process.returncode == 0:
            last: dict[str, object] = json.loads(said.splitlines()[-1])
            return last
        if self._over.is_set():
            self.ended["interrupted"] += 1
        else:
            self.failures.append(self._log.read_text(encoding="utf-8")[-1000:])
        return None

    def _serve_all_the_same(self, version: str) -> None:
        """So short a round seldom passes its gate: its adapter comes back as a new candidate."""
        found = self._registry.get(version)
        self._registry.add(
            {name: found.path / name for name in found.manifest.files},
            base_model=found.manifest.base_model,
            base_sha256=found.manifest.base_sha256,
            round=found.manifest.round,
            metrics=found.manifest.metrics,
        )
        with contextlib.suppress(AdapterError):  # a swap came before the verdict: it is active
            self._registry.remove(version)
