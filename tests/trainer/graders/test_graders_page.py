"""docs/graders.md names every grader and every field of it."""

import re
from pathlib import Path
from typing import get_args

import pytest

from edge_agent.log.grader_spec import Spec

PAGE = Path(__file__).parents[3] / "docs" / "graders.md"


@pytest.mark.parametrize("kind", get_args(Spec), ids=lambda kind: kind.__name__)
def test_a_grader_and_its_fields_are_on_the_page(kind: type[Spec]) -> None:
    fields = kind.model_fields
    rows = [row for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    (row,) = [row for row in rows if row.startswith(f"| `{fields['type'].default}` |")]
    named = set(re.findall(r"`(\w+)`", row.split("|")[3]))
    wanted = {info.alias or name for name, info in fields.items()} - {"type"}
    values = {"answer", "last_number", "whole", "search", "full"}
    assert named - values == wanted
