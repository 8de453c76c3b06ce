"""Runs a module until whoever holds our stdin is gone: `leashed MODULE ARGS...`.

The child's stdin is a pipe from its parent. However the parent ends, kill -9 included, the kernel
closes the pipe, and the child ends too: no orphan keeps listening.
"""

import os
import runpy
import signal
import sys
import threading


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
