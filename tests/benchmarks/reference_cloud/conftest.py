"""Reference clouds, started and stopped."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from benchmarks.reference_cloud.app import ReferenceCloud
from tests.benchmarks.reference_cloud.cloud_thread import listening, running


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Starts a reference cloud and gives its base URL."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(**options))


@pytest.fixture
def serving() -> Iterator[Callable[[ReferenceCloud], str]]:
    """Starts the reference cloud it is given, and gives its base URL."""
    with ExitStack() as stack:
        yield lambda cloud: stack.enter_context(listening(cloud))


@pytest.fixture(scope="session")
def cloud() -> Iterator[str]:
    """One that is always right."""
    with running() as url:
        yield url
