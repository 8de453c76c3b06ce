"""The reference cloud as a child process, for a daemon that has no cloud of its own."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from edge_agent.errors import ConfigError

_COMMAND = ("edge_agent", "reference-cloud", "--port", "0", "--json")
_END_S = 5


@contextlib.contextmanager
def reference_cloud() -> Iterator[dict[str, Any]]:
    """Run `edge-agent reference-cloud` until the context ends or this process does.

    Yields the settings that point at it: dotted keys of `cloud`. Raises ConfigError if it does
    not start.
    """
    # A session of its own: Ctrl-C is ours to handle, answers that run still need it.
    child = subprocess.Popen(
        [sys.executable, "-m", "edge_agent.processes.leashed", *_COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield _settings(child.stdout.readline())
    finally:
        child.stdin.close()
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


def _settings(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
        url, model, price = said["url"], said["model"], said["price"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "the reference cloud did not start; see its message above, or configure cloud.url"
        ) from error
    return {
        "cloud.url": url.removesuffix("/v1") + "/v1",
        "cloud.model": model,
        "cloud.prices": {model: price},
    }
