"""OpenMP's threads spin for some microseconds while they wait, unless the user said otherwise."""

import os
import subprocess
import sys

import pytest

_SHOW = "import os, {module}; print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"


@pytest.mark.parametrize("module", ["edge_agent.__main__", "trainer"])
@pytest.mark.parametrize(
    ("theirs", "seen"),
    [({}, "ACTIVE 5000"), ({"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "7"}, "passive 7")],
)
def test_threads_spin_briefly_unless_the_user_said_otherwise(
    module: str, theirs: dict[str, str], seen: str
) -> None:
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-c", _SHOW.format(module=module)],
        env=clean | theirs,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == seen
