"""Code is run against its tests, and kept from everything else."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.graders import sandbox_child
from trainer.graders.code import run

ADD = {"type": "unit_tests", "tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]}
GOOD = "Sure!\n```python\ndef add(a, b):\n    return a + b\n```\nDone."


def test_all_tests_must_pass_unless_partial(reward: Any) -> None:
    half = "```python\ndef add(a, b):\n    return 3\n```"
    assert reward("x", GOOD, grader=ADD) == 1
    assert reward("x", half, grader=ADD) == 0
    assert reward("x", half, grader={**ADD, "partial": True}) == 0.5
    assert reward("x", "I don't know", grader=ADD) == 0


def test_programs_are_judged_by_what_they_print(reward: Any) -> None:
    runs = [{"stdin": "2\n", "stdout": "4\n"}, {"stdin": "5", "stdout": "10"}]
    spec = {"type": "unit_tests", "tests": runs}
    assert reward("x", "print(int(input()) * 2)", grader=spec) == 1
    assert reward("x", "print(int(open(0).read()) * 2)", grader=spec) == 1
    assert reward("x", "import sys\nprint(int(sys.stdin.readline()) * 2)\nexit()", grader=spec) == 0
    assert reward("x", "print(4)", grader=spec) == 0
    assert reward("x", "print(4)", grader={**spec, "partial": True}) == 0.5


@pytest.mark.parametrize("trick", ["import os; os._exit(0)", "raise SystemExit(0)"])
def test_leaving_early_passes_nothing(reward: Any, trick: str) -> None:
    assert reward("x", trick, grader=ADD) == 0


@pytest.mark.parametrize(
    "code",
    [
        "import collections, dataclasses, decimal, fractions, heapq, itertools, json, re, typing",
        "open('mine', 'w').write('x'); assert open('mine').read() == 'x'",
        "import threading; threading.Thread(target=print).start()",
    ],
)
def test_what_honest_code_needs_works(code: str) -> None:
    ran = run(code, tests="")
    assert ran.completed, ran.output


@pytest.mark.parametrize(
    "code",
    [
        "import socket",
        "import os; os.fork()",
        "import os; os.system('true')",
        "import subprocess; subprocess.run(['true'])",
        "import _posixsubprocess",
        "import ctypes; ctypes.CDLL(None)",
        "import os; os.kill(os.getppid(), 0)",
        "open('{outside}').read()",
        "open('{outside}', 'a')",
        "import os; os.open('{outside}', os.O_RDONLY)",
        "import os; os.open('{outside}', os.O_WRONLY)",
        "import os; os.remove('{outside}')",
        "import os; os.listdir('{folder}')",
        "import os; os.utime('{outside}')",
        "import os; os.symlink('{outside}', 'link')",
    ],
)
def test_what_it_may_not_do(tmp_path: Path, code: str) -> None:
    outside = tmp_path / "secret"
    outside.write_text("secret")
    ran = run(code.replace("{outside}", str(outside)).replace("{folder}", str(tmp_path)), tests="")
    assert not ran.completed
    assert "is forbidden here" in ran.output
    assert outside.read_text() == "secret"


@pytest.mark.parametrize(
    ("code", "sign"),
    [
        ("x = bytearray(10**9)", "MemoryError"),
        ("print('a' * 10**7)", "aaa"),
        ("open('big', 'w').write('a' * 10**7)", "File too large"),
        ("files = [open(str(i), 'w') for i in range(100)]", "Too many open files"),
    ],
)
def test_limits(code: str, sign: str) -> None:
    ran = run(code, tests="")
    assert not ran.completed
    assert sign in ran.output
    assert len(ran.output) <= 1 << 20


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)"])
def test_a_program_that_does_not_end_is_ended(code: str) -> None:
    assert run(code, tests="", timeout_s=0.5).timed_out


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    ran = run("import os; print(dict(os.environ))")
    assert ran.completed
    assert "secret" not in ran.output
    assert "HOME" not in ran.output


def test_the_namespace_has_no_network() -> None:
    allowed = subprocess.run(["unshare", "--user", "--net", "true"], check=False).returncode == 0
    if not allowed:
        pytest.skip("this kernel gives no network namespaces to users")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = (
            "import runpy, socket\n"
            f"child = runpy.run_path({sandbox_child.__file__!r})\n"
            f"socket.create_connection(('127.0.0.1', {port})).close()\n"
            "child['limit'](512, 5, 1000)\n"
            "try:\n"
            f"    socket.create_connection(('127.0.0.1', {port}))\n"
            "except OSError:\n"
            "    print('unreachable')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    assert done.stdout.strip() == "unreachable"
