"""`make audit`: are the versions that we pin known to be vulnerable?

With pip-audit installed and its database in reach, it asks that. In any case it checks what can
be checked offline: every requirement is pinned to one exact version, installed at it, and came in
the archive whose hash is pinned. It says how many packages the database knew, and why none if it
could not be asked; only a vulnerability or a wrong pin makes it fail.
"""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass

from tests.trust import archives
from tests.trust.archives import ROOT

PATIENCE_S = 600.0
"""For pip-audit's questions to the database."""
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class NotAudited(Exception):
    """No database of vulnerabilities was asked; the message says why."""


def folded(name: str) -> str:
    """As PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """Name to version. Raises ValueError naming a line that is no exact pin."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _PIN.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"constraints.txt: {line!r} pins no exact version")
        if folded(match[1]) in found:
            raise ValueError(f"constraints.txt pins {match[1]} twice")
        found[folded(match[1])] = match[2]
    return found


def required(pyproject: str) -> set[str]:
    """Names of all requirements, with the extras."""
    project = tomllib.loads(pyproject)["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {_NAME.match(item) for items in lists for item in items}
    return {folded(match[0]) for match in names if match} - {folded(project["name"])}


def problems(pinned: dict[str, str], names: set[str], installed: dict[str, str]) -> list[str]:
    """What is wrong with the pins."""
    unpinned = [f"{name} is required, but not pinned" for name in sorted(names - pinned.keys())]
    return unpinned + [
        f"{name} is installed as {installed[name]}, but pinned to {version}"
        for name, version in pinned.items()
        # "2.13.0+cpu" is a build of 2.13.0.
        if installed.get(name, version).partition("+")[0] != version.partition("+")[0]
    ]


def archive_problems() -> list[str]:
    """Archives with another hash than the pinned one; prints how many could be compared."""
    pinned = archives.pinned(archives.PINNED.read_text(encoding="utf-8"))
    came = archives.installed(archives.REPORTS)
    print(
        f"hashes: {len(came.keys() & pinned.keys())} archives compared, "
        f"{len(came.keys() - pinned.keys())} are of another platform or version"
    )
    return archives.foreign(came, pinned)


@dataclass(frozen=True)
class Audited:
    """What pip-audit said of the pins."""

    known: int
    """Packages that its database holds; the others were skipped."""
    vulnerable: int


def audit() -> Audited:
    """Ask pip-audit, and name what is vulnerable. Raises NotAudited."""
    if importlib.util.find_spec("pip_audit") is None:
        raise NotAudited("pip-audit is not installed")
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, "--disable-pip", "--no-deps", "-r", str(ROOT / "constraints.txt")],
            capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NotAudited(f"pip-audit: no answer in {PATIENCE_S:g} s") from None
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        # It prints no report where it reached no database; the last line says what went wrong.
        said = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise NotAudited(f"pip-audit: {said}") from None
    known = [package for package in packages if "vulns" in package]
    vulnerable = [package for package in known if package["vulns"]]
    for package in vulnerable:
        ids = ", ".join(found["id"] for found in package["vulns"])
        print(f"{package['name']} {package['version']}: {ids}")
    return Audited(len(known), len(vulnerable))


def main() -> int:
    """Exit code: 1 for a vulnerability or a wrong pin."""
    pinned = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    names = required((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installed = {folded(d.name): d.version for d in importlib.metadata.distributions()}
    wrong = problems(pinned, names, installed) + archive_problems()
    print(*wrong, sep="\n", end="\n" if wrong else "")
    try:
        found = audit()
    except NotAudited as error:
        print(
            f"pins only: {len(pinned)} checked; no database of vulnerabilities was asked: {error}"
        )
        return 1 if wrong else 0
    print(
        f"pip-audit: {found.vulnerable} of {found.known} packages are known as vulnerable; "
        f"{len(pinned) - found.known} of {len(pinned)} pinned ones are not in its database"
    )
    return 1 if wrong or found.vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
