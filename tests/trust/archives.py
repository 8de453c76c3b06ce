"""The archives that pip installed, against the hashes that `constraints.sha256` pins.

A line is "HASH  FILE", as sha256sum writes it, for the platform that the tests run on; archives of
other platforms are not listed. pip checks none of this while it installs: `make audit` does, later.
"""

import json
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINNED = ROOT / "constraints.sha256"
REPORTS = Path(sys.prefix)
"""Where the Makefile lets pip write what it installed: `pip-*.json`, see `pip install --report`."""


def pinned(text: str) -> dict[str, str]:
    """File to hash."""
    lines = (line.split("  ", 1) for line in text.splitlines() if line)
    return {file: digest for digest, file in lines}


def installed(reports: Path) -> dict[str, str]:
    """File to hash of every archive that pip's reports in a folder name."""
    found = {}
    for report in sorted(reports.glob("pip-*.json")):
        for package in json.loads(report.read_text(encoding="utf-8"))["install"]:
            source = package["download_info"]
            digest = source.get("archive_info", {}).get("hashes", {}).get("sha256")
            if digest is not None:  # our own folder has none
                path = urllib.parse.urlsplit(source["url"]).path
                found[urllib.parse.unquote(path.rpartition("/")[2])] = digest
    return found


def foreign(installed: Mapping[str, str], pinned: Mapping[str, str]) -> list[str]:
    """One line for each archive that is listed with another hash."""
    return [
        f"{file} has the hash {digest}, but {pinned[file]} is pinned"
        for file, digest in installed.items()
        if pinned.get(file, digest) != digest
    ]


def main() -> None:
    """Pin what is installed here: in a fresh .venv, after a version in constraints.txt changes."""
    found = installed(REPORTS)
    lines = (f"{found[file]}  {file}\n" for file in sorted(found, key=str.lower))
    PINNED.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
