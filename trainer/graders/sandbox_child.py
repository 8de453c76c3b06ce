"""Runs one untrusted program. Started by `sandbox` as a script: `python -I -S sandbox_child.py`.

It limits itself before the program starts: memory, CPU time, open files, file size, processes;
a network namespace without interfaces where the kernel allows one; and an audit hook that
forbids sockets, processes, ctypes, and files outside its own directory and Python's library.
That stops careless code and simple tricks. It is no wall against code written to break out of
CPython, which could also find the nonce by walking frames.
"""

import ctypes
import json
import os
import resource
import sys
from typing import Any

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FORBIDDEN = (
    "os.",
    "socket.",
    "subprocess.",
    "ctypes.",
    "shutil.",
    "pty.",
    "gc.get_",
    "sys.addaudithook",
)
_HARMLESS = ("os.putenv", "os.unsetenv")
_NO_IMPORT = {"_posixsubprocess", "_socket", "_ctypes", "_multiprocessing"}
"""What can start a process or open a socket behind the hook's back."""
_LISTS = ("os.listdir", "os.scandir")


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

    def reads(path: Any) -> bool:
        if path is None or isinstance(path, int):
            return isinstance(path, int)
        place = os.path.realpath(os.fsdecode(path))
        return (place + os.sep).startswith(inside) or place.startswith(library)

    def writes(path: Any) -> bool:
        return isinstance(path, int) or os.path.realpath(os.fsdecode(path)).startswith(inside)

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        allowed = True
        if event == "open":
            path, mode, flags = arguments
            # os.open tells no mode, open() no flags of use; any doubt counts as writing.
            reading = mode in {"r", "rb"} or (mode is None and not flags & _WRITES)
            allowed = reads(path) if reading else writes(path)
        elif event in _LISTS:
            allowed = reads(arguments[0])
        elif event == "import":
            allowed = arguments[0] not in _NO_IMPORT
        elif event.startswith(_FORBIDDEN):
            allowed = event in _HARMLESS
        if not allowed:
            raise PermissionError(f"{event} {arguments[:1]!r} is forbidden here")

    sys.addaudithook(check)


def feed(text: str) -> None:
    """Makes `text` the standard input, for open(0) too."""
    with open("stdin", "wb+") as file:
        os.unlink("stdin")
        file.write(text.encode())
        file.seek(0)
        os.dup2(file.fileno(), 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115


def main() -> None:
    """Reads the job from standard input; prints the nonce last if it came to its end."""
    job = json.loads(sys.stdin.buffer.read())
    feed(job["stdin"])
    limit(job["memory_mb"], job["cpu_s"], job["output_bytes"])
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
