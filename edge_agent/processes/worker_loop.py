"""The child's end of `worker`: one request a line on its input, one reply a line on its output.

A script that ends with `serve(TASKS)` is started as `python -P SCRIPT TIMEOUT_S MEMORY_MB`. The
limit is one of processor time: on a busy machine a task may wait long for little work.
"""

import contextlib
import json
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

PATIENCE = 12
"""A call ends after this many times its limit at the latest, however little it could compute."""

Task = Callable[..., Any]


def serve(tasks: Mapping[str, Callable[[], Task]]) -> None:
    """Answer until the input ends. A task's maker is called when the task is first asked for."""
    timeout_s, memory = float(sys.argv[1]), int(sys.argv[2]) << 20
    for end in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(end, signal.SIG_DFL)
    # Where the system does not limit memory (macOS), time is what bounds it.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ready: dict[str, Task] = {}
    replies = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no reply
    for line in sys.stdin:
        request = json.loads(line)
        task = request["task"]
        try:
            if task not in ready:
                ready[task] = tasks[task]()
            _allow(timeout_s)
            reply = json.dumps({"value": ready[task](**request["arguments"])})
        except (Exception, MemoryError) as error:
            reply = json.dumps({"error": f"{task}: {type(error).__name__}: {error}"[:500]})
        finally:
            _allow(0)
        replies.write(reply + "\n")
        replies.flush()


def _allow(timeout_s: float) -> None:
    """Let the process end after so much more processor time, or PATIENCE times that; 0: never."""
    signal.setitimer(signal.ITIMER_PROF, timeout_s)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * timeout_s)
