"""Where data lives. One directory holds the database, `models/` (cache) and `adapters/`."""

import os
from pathlib import Path

import platformdirs


def default_data_dir() -> Path:
    """`$EDGE_AGENT_DATA_DIR`, else the platform's user data directory for edge-agent."""
    override = os.environ.get("EDGE_AGENT_DATA_DIR")
    if override:
        return Path(override).expanduser()
    return Path(platformdirs.user_data_dir("edge-agent"))


def private_dir(path: Path) -> Path:
    """Create `path` (and parents) readable by its owner only; returns it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
