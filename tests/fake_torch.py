"""A torch that says it is imported and ends the process: what came before it can be tested."""

from pathlib import Path

_SOURCE = """
import json, os, sys
policy = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None
print(json.dumps({"event": "torch", "policy": policy}), flush=True)
sys.exit(7)
"""
STATUS = 7
"""Exit status of a process that imported it."""


def write_fake_torch(folder: Path) -> Path:
    """Write it to `folder`, which is to come first in PYTHONPATH; returns `folder`."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(_SOURCE, encoding="utf-8")
    return folder
