"""`make audit`: are the versions that we pin known to be vulnerable?

With pip-audit installed and its database in reach, it asks that. Without either, it checks what can
be checked offline: every requirement is pinned to one exact version, and installed at it. It says
which of the two was done; only a vulnerability or a wrong pin makes it fail.
"""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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


def audit() -> int | None:
    """Number of vulnerable packages; None if that could not be asked."""
    if importlib.util.find_spec("pip_audit") is None:
        return None
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(
        [*command, "--disable-pip", "--no-deps", "-r", str(ROOT / "constraints.txt")],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return None  # it prints no report where it reached no database
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        ids = ", ".join(found["id"] for found in package["vulns"])
        print(f"{package['name']} {package['version']}: {ids}")
    return len(vulnerable)


def main() -> int:
    """Exit code: 1 for a vulnerability or a wrong pin."""
    pinned = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    names = required((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installed = {folded(d.name): d.version for d in importlib.metadata.distributions()}
    wrong = problems(pinned, names, installed)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    vulnerable = audit()
    if vulnerable is None:
        print(f"pins only: {len(pinned)} checked; no database of vulnerabilities was asked")
    else:
        print(f"pip-audit: {vulnerable} of {len(pinned)} pinned packages are known as vulnerable")
    return 1 if wrong or vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
