"""The audit of what we depend on finds what it is there to find."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trust import archives
from tests.trust.audit import ROOT, archive_problems, folded, main, pins, problems, required


def test_what_is_required_is_pinned_exactly() -> None:
    pinned = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    names = required((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    missing = {name for name in names - pinned.keys() if not name.startswith("types-")}
    assert missing == set()


@pytest.mark.parametrize("line", ["a>=1", "a", "a==1.*", "a @ git+x", "-r other.txt", "a==1\na==2"])
def test_a_line_that_is_no_pin_is_named(line: str) -> None:
    with pytest.raises(ValueError, match=r"constraints\.txt"):
        pins(line)


def test_a_drift_is_named() -> None:
    found = problems({"a": "1", "b": "2"}, {"a", "c"}, {"a": "1.1", "b": "2"})
    assert found == [
        "c is required, but not pinned",
        "a is installed as 1.1, but pinned to 1",
    ]


REPORT = {
    "dependencies": [
        {"name": "numpy", "version": "1", "vulns": [{"id": "PYSEC-1"}, {"id": "CVE-2"}]},
        {"name": "torch", "version": "2", "vulns": []},
        {"name": "rich", "skip_reason": "Dependency not found"},
    ],
    "fixes": [],
}
"""As pip-audit's `--format json` prints it."""
CLEAN = {"dependencies": REPORT["dependencies"][1:], "fixes": []}


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (REPORT, "numpy 1: PYSEC-1, CVE-2\npip-audit: 1 of 2 packages are known as vulnerable"),
        (CLEAN, "pip-audit: 0 of 1 packages are known as vulnerable"),
        (None, "no database of vulnerabilities was asked: pip-audit: ERROR: no route"),
    ],
)
def test_what_pip_audit_says_is_passed_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    report: Any,
    says: str,
) -> None:
    stand_in = (
        "import sys\n"
        "assert '--no-deps' in sys.argv and sys.argv[-2] == '-r', sys.argv\n"
        f"print({'' if report is None else json.dumps(report)!r})\n"
        "print('WARNING: first\\nERROR: no route', file=sys.stderr)\n"
    )
    (tmp_path / "pip_audit.py").write_text(stand_in)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("tests.trust.audit.problems", lambda *_: [])
    assert main() == (report is REPORT)
    assert says in capsys.readouterr().out


def test_a_database_that_never_answers_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pip_audit.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("tests.trust.audit.problems", lambda *_: [])
    monkeypatch.setattr("tests.trust.audit.PATIENCE_S", 0.5)
    assert main() == 0
    assert "no database of vulnerabilities was asked: pip-audit: no answer" in (
        capsys.readouterr().out
    )


def pip_report(folder: Path, name: str, *urls: str) -> None:
    """As `pip install --report` writes it; every archive has the hash "aa"."""
    folder.mkdir(exist_ok=True)
    packages = [
        {"download_info": {"url": url, "archive_info": {"hashes": {"sha256": "aa"}}}}
        for url in urls
    ]
    ours = {"download_info": {"url": "file:///src", "dir_info": {"editable": True}}}
    (folder / name).write_text(json.dumps({"install": [*packages, ours]}), encoding="utf-8")


def test_an_archive_with_another_hash_fails_the_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pip_report(tmp_path, "pip-dev.json", "https://index/a-1.whl", "https://index/b-1%2Bcpu.whl")
    pip_report(tmp_path, "pip-serve.json", "https://index/c-1.tar.gz#x")
    monkeypatch.setattr(archives, "REPORTS", tmp_path)
    monkeypatch.setattr(archives, "PINNED", tmp_path / "pins")
    archives.PINNED.write_text("aa  a-1.whl\naa  b-1+cpu.whl\n", encoding="utf-8")
    assert archive_problems() == []
    assert "2 archives compared, 1 are of another platform" in capsys.readouterr().out
    archives.PINNED.write_text("aa  a-1.whl\nbb  c-1.tar.gz\n", encoding="utf-8")
    assert archive_problems() == ["c-1.tar.gz has the hash aa, but bb is pinned"]
    assert main() == 1
    archives.main()
    assert archives.PINNED.read_text() == "aa  a-1.whl\naa  b-1+cpu.whl\naa  c-1.tar.gz\n"


def test_every_pinned_version_has_a_hash() -> None:
    files = archives.pinned(archives.PINNED.read_text(encoding="utf-8"))
    parts = [file.removesuffix(".tar.gz").split("-") for file in files]
    hashed = {(folded(name), version.partition("+")[0]) for name, version, *_ in parts}
    assert pins((ROOT / "constraints.txt").read_text(encoding="utf-8")).items() - hashed == set()
