"""A daemon with a reference cloud behind it, started once per module."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.end_to_end.processes import Running, running


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A reference cloud that is always right and quick."""
    with running(
        "reference-cloud",
        "--port",
        "0",
        "--latency-ms",
        "1",
        "--accuracy",
        "1",
        data_dir=tmp_path_factory.mktemp("c"),
    ) as found:
        yield found


@pytest.fixture(scope="module")
def daemon_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The daemon's data directory."""
    return tmp_path_factory.mktemp("daemon")


@pytest.fixture(scope="module")
def daemon(cloud: Running, daemon_dir: Path) -> Iterator[Running]:
    """The daemon on the real small model, offloading to `cloud`."""
    with running(
        *("serve", "--port", "0", "--threads", "1"),
        *("--cloud-url", cloud.base_url, "--cloud-model", "reference-cloud"),
        data_dir=daemon_dir,
    ) as found:
        yield found


@pytest.fixture(scope="module")
def client(daemon: Running) -> Iterator[openai.OpenAI]:
    """The `openai` SDK pointed at the daemon, as a user's app has it."""
    with openai.OpenAI(base_url=daemon.base_url, api_key="none", max_retries=0) as sdk:
        yield sdk
