"""The audit of what we depend on finds what it is there to find."""

import pytest
from audit import ROOT, pins, problems, required


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
