"""Runs one untrusted program. Started by `sandbox` as a script: `python -I -S sandbox_child.py`.

It limits itself before the program starts: memory, CPU time, open files, file size, processes;
a network namespace without interfaces where the kernel allows one; and an audit hook that
forbids sockets, processes, ctypes, and files outside its own directory and Python's library.
That stops careless code and simple tricks. It is no wall against code written to break out of
CPython, which could also find the nonce by walking frames.
"""

import ctypes
import io
import json
import os
import resource
import sys
from types import FrameType  # noqa: F401  (imported before imports are watched)
from typing import Any

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_FORBIDDEN = (
    "socket.",
    "subprocess.",
    "ctypes.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.kill",
    "os.putenv",
    "os.chmod",
    "os.chown",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.listdir",
    "os.scandir",
    "os.chdir",
    "os.chroot",
    "shutil.",
    "pty.",
    "signal.pthread_kill",
    "sys.addaudithook",
    "gc.get_",
)
_IMPORTED_EARLY = ("collections", "functools", "heapq", "itertools", "math", "random", "re")


def limit(memory_mb: int, cpu_s: int, file_bytes: int) -> None:
    """Limits of this process and of what it may reach."""
    memory = memory_mb << 20
    for what, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (value, value))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    # After unshare, in which root loses the right to ignore this limit.
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))


def guard(directory: str) -> None:
    """Forbids, for the rest of this process, what no answer to a programming task needs."""
    library = tuple({sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)})
    inside = directory + os.sep

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode = arguments[0], arguments[1]
            if isinstance(path, int):
                return
            path = os.path.realpath(os.fsdecode(path))
            if path.startswith(inside):
                return
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if mode in {None, "r", "rb"} and not writes and path.startswith(library):
                return
            raise PermissionError(f"{path} is outside the sandbox")
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event} is forbidden here")

    sys.addaudithook(check)


def main() -> None:
    """Reads the job from standard input; prints the nonce last if it came to its end."""
    job = json.loads(sys.stdin.buffer.read())
    for name in _IMPORTED_EARLY:
        __import__(name)
    limit(job["memory_mb"], job["cpu_s"], job["output_bytes"])
    sys.stdin = io.TextIOWrapper(io.BytesIO(job["stdin"].encode()), encoding="utf-8")
    guard(os.path.realpath(os.getcwd()))
    scope: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        exec(compile(job["code"], "answer.py", "exec"), scope)  # noqa: S102
    except SystemExit as error:
        # A program may end itself; one that is to be tested further may not.
        if job["tests"] is not None or error.code not in {None, 0}:
            raise
    if job["tests"] is not None:
        exec(compile(job["tests"], "tests.py", "exec"), scope)  # noqa: S102
    sys.stdout.write(job["nonce"])
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
