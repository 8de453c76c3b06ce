"""A round is running as long as its process lives, and not until somebody reaps it."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from edge_agent.learning.journal import Journal

BEGIN = """
import sys
from pathlib import Path
from edge_agent.learning.journal import Journal, Position
Journal(Path(sys.argv[1])).begin(until=Position(), base="m", parent="base", settings={})
print("begun", flush=True)
sys.stdin.readline()
"""


def test_the_round_of_a_killed_trainer_is_free_at_once(database: Path) -> None:
    with (
        closing(Journal(database)) as journal,
        subprocess.Popen(
            [sys.executable, "-c", BEGIN, str(database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as trainer,
    ):
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "begun\n"
        running = journal.running()
        assert running is not None
        assert running["pid"] == trainer.pid
        trainer.kill()
        os.waitid(os.P_PID, trainer.pid, os.WEXITED | os.WNOWAIT)  # dead, and left a zombie
        assert journal.running() is None
