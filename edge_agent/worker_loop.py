"""The child's end of `worker`: one request a line on its input, one reply a line on its output.

A script that ends with `serve(TASKS)` is started as `python -P SCRIPT TIMEOUT_S MEMORY_MB`.
"""

import contextlib
import json
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

Task = Callable[..., Any]


def serve(tasks: Mapping[str, Callable[[], Task]]) -> None:
    """Answer until the input ends. A task's maker is called when the task is first asked for."""
    timeout_s, memory = float(sys.argv[1]), int(sys.argv[2]) << 20
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
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
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
            reply = json.dumps({"value": ready[task](**request["arguments"])})
        except (Exception, MemoryError) as error:
            reply = json.dumps({"error": f"{task}: {type(error).__name__}: {error}"[:500]})
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(reply + "\n")
        replies.flush()
