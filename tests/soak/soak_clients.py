"""The clients of the soak: a handful who ask as people do, with pauses, and some who leave."""

import contextlib
import http.client
import json
import random
import threading
import urllib.parse
from collections import Counter
from functools import partial
from typing import Any

from tests.soak.crash import acknowledged_id
from tests.soak.soak_workers import Workers

CLIENTS = 6
TASK = "sums"
_TIMEOUT_S = 180
_JSON = {"Content-Type": "application/json"}
_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "sum",
        "schema": {
            "type": "object",
            "properties": {"sum": {"type": "integer"}},
            "required": ["sum"],
            "additionalProperties": False,
        },
    },
}
KINDS: dict[str, dict[str, Any]] = {
    "chat": {"model": "edge"},
    "stream": {"model": "edge", "stream": True},
    "cloud": {"model": "edge-cloud", "stream": True},
    "private": {"model": "edge", "private": True},
    "left": {"model": "edge-local", "stream": True, "max_tokens": 64, "ignore_eos": True},
    "left-cloud": {"model": "edge-cloud", "stream": True, "max_tokens": 64},
    "schema": {"model": "edge-local", "response_format": _SCHEMA, "max_tokens": 24},
    "several": {"model": "edge-local", "n": 3},
    "embedding": {"model": "edge-local"},
}
_WEIGHTS = (6, 6, 3, 2, 2, 1, 1, 1, 1)


class Clients(Workers):
    """Threads that ask until the context ends. What they heard is in the attributes."""

    def __init__(self, url: str, *, pause_s: float, seed: int) -> None:
        """`pause_s` is the mean pause of one client between two requests."""
        self.acknowledged: set[str] = set()
        """Ids of the answers that came to their end."""
        self.answers: Counter[str] = Counter()
        """By kind; those that were left in the middle count, too."""
        self.errors: Counter[str] = Counter()
        self._address = urllib.parse.urlsplit(url).netloc
        self._pause_s = pause_s
        self._lock = threading.Lock()
        randoms = [random.Random(f"{seed}:{number}") for number in range(CLIENTS)]
        super().__init__(*(partial(self._run, rng) for rng in randoms))

    @property
    def learnable(self) -> int:
        """Answered queries that a round can learn from: those with a reference, not private."""
        return sum(self.answers[kind] for kind in ("chat", "stream", "cloud"))

    def _run(self, rng: random.Random) -> None:
        said: list[dict[str, str]] = []
        while not self._over.wait(rng.expovariate(1 / self._pause_s)):
            (kind,) = rng.choices(list(KINDS), _WEIGHTS)
            question, answer = _question(rng)
            # Now and then a conversation goes on, up to a few turns: its prefix is cached.
            said = said[-6:] if rng.random() < 0.4 else []
            said.append({"role": "user", "content": question})
            heard = self._ask(kind, _body(kind, said, answer), rng)
            said.append({"role": "assistant", "content": heard or answer})

    def _ask(self, kind: str, body: dict[str, Any], rng: random.Random) -> str | None:
        """The bare id of the answer, where one came to its end and has an id."""
        path = "/v1/embeddings" if kind == "embedding" else "/v1/chat/completions"
        connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT_S)
        raw, problem, refused = b"", None, False
        with contextlib.closing(connection):
            try:
                connection.request("POST", path, json.dumps(body), _JSON)
                response = connection.getresponse()
                leaves = kind.startswith("left") and response.status == 200
                raw = response.read(rng.choice([1, 200, 1000])) if leaves else response.read()
                # Who insists on the cloud is told when its share is used up.
                refused = response.status == 429 and "cloud" in kind and b"budget_exhausted" in raw
                if response.status != 200 and not refused:
                    problem = f"{response.status} {raw.decode('utf-8', 'replace')[:200]}"
            except (OSError, http.client.HTTPException) as error:
                problem = repr(error)
        ended = None if kind.startswith("left") else acknowledged_id(raw, "stream" in body)
        needs_none = refused or kind.startswith(("left", "embedding"))
        if problem is None and ended is None and not needs_none:
            problem = f"not a whole answer: {raw[-200:]!r}"
        with self._lock:
            if problem is not None:
                self.errors[f"{kind}: {problem}"] += 1
            else:
                self.answers["refused" if refused else kind] += 1
            if ended is not None:
                self.acknowledged.add(ended)
        return ended


def _question(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randrange(1000), rng.randrange(10)
    return f"Calculate {a} + {b}.", str(a + b)


def _body(kind: str, messages: list[dict[str, str]], answer: str) -> dict[str, Any]:
    fields = dict(KINDS[kind])
    if kind == "embedding":
        return {**fields, "input": messages[-1]["content"]}
    ours = {"task": TASK, "reference": answer, "grader": {"type": "numeric"}}
    ours["private"] = fields.pop("private", False)
    return {"max_tokens": 12, "messages": list(messages), "edge_agent": ours, **fields}
