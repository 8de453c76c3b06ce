"""Other processes on this machine. Standard library only: the command line imports it first."""

import os


def is_alive(pid: int) -> bool:
    """Whether a process of that number runs, whosever it is."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
