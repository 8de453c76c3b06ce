"""Runs one untrusted program. Started by `sandbox` as a script: `python -I -S sandbox_child.py`.

It limits itself before the program starts: memory, CPU time, open files, file size, processes;
a network namespace without interfaces where the kernel has one; Landlock rules likewise: no files
outside its own directory and Python's library, no TCP, no other program; a seccomp filter against
new processes; and an audit hook that forbids the same, and says so. The hook alone stops careless
code and simple tricks. The kernel's rules also hold for code that breaks out of CPython, which
could still find the nonce by walking frames and so cheat the grader.
"""

import ctypes
import json
import os
import resource
import struct
import sys
from typing import Any

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP, _FILTER = 22, 2
_CLONE_THREAD = 0x10000
_CALLS = {"x86_64": (0xC000003E, 56, (57, 58)), "aarch64": (0xC00000B7, 220, ())}
"""Of a machine: its AUDIT_ARCH, clone, and the older calls that start a process."""
_CLONE3 = 435
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
"""Where modules in C find the libraries they are linked with."""
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


def _library() -> tuple[str, ...]:
    """Directories of Python itself."""
    return tuple({sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)})


def wall(directory: str) -> None:
    """Landlock (Linux 5.13; TCP 6.7; signals 6.12): the kernel's own rules, never to be undone.

    Nothing but `directory` may be written, nothing but it and libraries read, nothing executed.
    Does nothing where the kernel has no Landlock. Raises OSError if it has and refuses.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return
    everything = (1 << 13) - 1
    for since, right in ((2, 13), (3, 14), (5, 15)):
        everything |= (version >= since) << right
    rules = struct.pack("QQQ", everything, 3, 3)
    size = 24 if version >= 6 else 16 if version >= 4 else 8

    def call(number: int, *arguments: Any) -> int:
        done: int = libc.syscall(number, *arguments)
        if done < 0:
            raise OSError(ctypes.get_errno(), "Landlock refused a rule")
        return done

    ruleset = call(_LANDLOCK_CREATE, rules, size, 0)
    allowed = dict.fromkeys((*_library(), *_SYSTEM), _READ_FILE | _READ_DIR)
    for path, rights in {**allowed, directory: everything & ~1}.items():
        if os.path.exists(path):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            wanted = rights if os.path.isdir(path) else _READ_FILE
            call(_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", wanted, descriptor), 0)
            os.close(descriptor)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call(_LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def alone() -> None:
    """A seccomp filter: threads may be started, processes not.

    RLIMIT_NPROC does not bind root, not even in a user namespace.
    """
    known = _CALLS.get(os.uname().machine)
    if sys.platform != "linux" or known is None:
        return
    arch, clone, forks = known
    load, equal, at_least, any_bit, ret = 0x20, 0x15, 0x35, 0x45, 0x06
    allow = len(forks) + 8  # where the three verdicts stand, behind the questions
    absent, deny = allow + 1, allow + 2
    program = [(load, 0, 0, 4), (equal, 0, deny - 2, arch), (load, 0, 0, 0)]
    program.append((at_least, deny - 4, 0, 0x40000000))  # the x32 calls of x86_64
    for call in forks:
        program.append((equal, deny - len(program) - 1, 0, call))
    program.append((equal, absent - len(program) - 1, 0, _CLONE3))
    program.append((equal, 0, allow - len(program) - 1, clone))
    program.append((load, 0, 0, 16))  # the flags
    program.append((any_bit, 0, deny - len(program) - 1, _CLONE_THREAD))
    program.append((ret, 0, 0, 0x7FFF0000))
    program.append((ret, 0, 0, 0x50000 | 38))  # ENOSYS: the C library falls back to clone
    program.append((ret, 0, 0, 0x50000 | 1))  # EPERM
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    )
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_SECCOMP, _FILTER, header, 0, 0)


def guard(directory: str) -> None:
    """Forbids, for the rest of this process, what no answer to a programming task needs."""
    library = tuple(path + os.sep for path in _library())
    inside = directory + os.sep

    def reads(path: Any) -> bool:
        if path is None or isinstance(path, int):
            return isinstance(path, int)
        place = os.path.realpath(os.fsdecode(path))
        return (place + os.sep).startswith(inside) or (place + os.sep).startswith(library)

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
    directory = os.path.realpath(os.getcwd())
    wall(directory)
    alone()
    guard(directory)
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
