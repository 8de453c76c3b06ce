"""Debian's Chromium on the page of a real daemon: the real small model, a reference cloud.

`PAGE_PICTURES=docs/images pytest tests/page` writes the pictures of the documentation.
"""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.processes import Running, running

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

PATIENCE_MS = 240_000
"""Chromium on a machine with two busy cores."""
AXE = "axe-core@4.14.1"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
"""Of package/axe.min.js in that version."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """The browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"], timeout=PATIENCE_MS
        )
        yield found
        found.close()


@pytest.fixture(scope="package")
def daemon_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The daemon's data directory."""
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="package")
def daemon(daemon_dir: Path) -> Iterator[Running]:
    """A daemon that trains nothing by itself and audits nothing."""
    with running(
        *("serve", "--port", "0", "--threads", "1", "--reference-cloud"),
        *("--budget-calls-per-day", "40"),
        data_dir=daemon_dir,
        EDGE_AGENT_TRAIN_ENABLED="false",
        EDGE_AGENT_DECISION_AUDIT="0",
    ) as found:
        yield found


class Visitor:
    """A tab, and what its console complained about."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.url = url
        self.problems: list[str] = []
        self.context = browser.new_context(viewport={"width": 1280, "height": 800}, **context)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._note)

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def open(self, view: str) -> Any:
        """Go to a view and return the page, with its heading there."""
        self.page.goto(f"{self.url}/#/{view}")
        self.page.locator("main h1").wait_for()
        return self.page


@pytest.fixture
def visitor(browser: Any, daemon: Running) -> Iterator[Visitor]:
    """A tab on the daemon's page; its console must stay silent."""
    found = Visitor(browser, daemon.url, color_scheme="light")
    yield found
    found.context.close()
    assert found.problems == []


@pytest.fixture(scope="package")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, fetched with npm and held against its hash."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, so axe-core cannot be fetched")
    folder = tmp_path_factory.mktemp("axe")
    packed = subprocess.run(
        [npm, "pack", AXE], cwd=folder, capture_output=True, text=True, check=False
    )
    if packed.returncode:
        pytest.skip(f"npm cannot fetch {AXE}")
    archive = folder / packed.stdout.strip().splitlines()[-1]
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as files:
        member = files.extractfile("package/axe.min.js")
        assert member is not None
        source = member.read()
    assert hashlib.sha256(source).hexdigest() == AXE_SHA256
    return source.decode()


@pytest.fixture(scope="package")
def pictures() -> Path | None:
    """Where pictures go, if they are asked for."""
    folder = os.environ.get("PAGE_PICTURES")
    return Path(folder) if folder else None
