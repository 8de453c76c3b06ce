"""The documentation as a site: it builds without a warning, and asks no other host for anything."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.conftest import DOCS

_LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](?:https?:)?//[^"']+"""
    r"""|<link\b(?=[^>]*rel=["'](?:stylesheet|icon|preload|preconnect))[^>]*href=["'](?:https?:)?//[^"']+"""
    r"""|@import[^;]*//|url\(["']?(?:https?:)?//[^)]+"""
)


@pytest.mark.timeout(900)
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    built = subprocess.run(
        [*command, str(DOCS), str(site)],
        cwd=DOCS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    files = [file for kind in ("*.html", "*.css") for file in site.rglob(kind)]
    assert site / "tutorial.html" in files
    assert site / "reference" / "cli.html" in files
    foreign = {
        (file.relative_to(site), found)
        for file in files
        for found in _LOADED.findall(file.read_text(encoding="utf-8"))
    }
    assert foreign == set()
    assert "<math" in (site / "learning.html").read_text(encoding="utf-8")
