"""What a graded program may not reach, tried for real: first through the grader as it is, then
as code that has got rid of Python's own guard, so that only the kernel stands in its way.
"""

import ctypes
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from trainer.graders import sandbox_child
from trainer.graders.code import Ran, run

HAS_LANDLOCK = sys.platform == "linux" and ctypes.CDLL(None).syscall(444, None, 0, 1) > 0


def broken_out(code: str, work: Path) -> str:
    """What `code` prints within the kernel's limits, without the audit hook."""
    prelude = (
        "import os, runpy, socket, subprocess, sys, threading\n"
        f"child = runpy.run_path({sandbox_child.__file__!r})\n"
        "child['limit'](512, 5, 100_000)\n"
        f"child['wall']({str(work)!r})\n"
        "child['alone']()\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", prelude + code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=work,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "open(os.path.expanduser('~/.bashrc'))",
        "open('/etc/passwd')",
        "open('/proc/self/environ')",
        "open('/proc/self/../self/cmdline')",
        "open('../output')",
        "os.listdir(os.path.expanduser('~'))",
        "os.scandir('/')",
        "open(sys.prefix + '-beside/secret')",
        "__import__('glob').glob('/home/*', root_dir='/') or os.listdir('/home')",
        "__import__('pathlib').Path.home().joinpath('.ssh').iterdir().__next__()",
        "os.chdir('/')",
        "__import__('mmap').mmap(os.open('/etc/passwd', 0), 0)",
        "__import__('sqlite3').connect('/tmp/x.db').execute('create table t(x)')",
        "__import__('runpy').run_path('/etc/passwd')",
        "__import__('linecache').getlines('/etc/passwd')[0]",
        "__import__('shutil').copy('/etc/passwd', 'mine')",
        "__import__('socket')",
        "__import__('urllib.request').request.urlopen('http://127.0.0.1/')",
        "__import__('multiprocessing').Process(target=print).start()",
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
    ],
)
def test_the_grader_stops_it(code: str) -> None:
    ran = run(f"import os, sys\n{code}\n", tests="")
    assert not ran.completed
    assert "root:" not in ran.output


@pytest.mark.skipif(not HAS_LANDLOCK, reason="this kernel has no Landlock")
def test_code_that_broke_out_reads_and_writes_nothing_outside(tmp_path: Path) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    secret = home / "secret"
    secret.write_text("sk-secret")
    code = (
        f"for path, mode in (({str(secret)!r}, 'r'), ('/etc/passwd', 'r'), ('../new', 'w'),\n"
        f"                   ('/proc/self/environ', 'r'), ({str(secret)!r}, 'a')):\n"
        "    try:\n"
        "        print('opened', path, open(path, mode).read(9))\n"
        "    except PermissionError:\n"
        "        print('denied')\n"
        "for attempt in (lambda: os.listdir('/'), lambda: os.remove(" + repr(str(secret)) + "),\n"
        "                lambda: os.execv('/bin/true', ['true'])):\n"
        "    try:\n"
        "        print('did', attempt())\n"
        "    except PermissionError:\n"
        "        print('denied')\n"
        "open('mine', 'w').write('x'); import decimal, _json; print(open('mine').read())\n"
    )
    assert broken_out(code, work).split() == ["denied"] * 8 + ["x"]
    assert secret.read_text() == "sk-secret"


@pytest.mark.skipif(not HAS_LANDLOCK, reason="this kernel has no Landlock")
def test_code_that_broke_out_reaches_no_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = (
            "try:\n"
            f"    socket.create_connection(('127.0.0.1', {port}), 5); print('connected')\n"
            "except OSError:\n"
            "    print('unreachable')\n"
        )
        assert broken_out(code, tmp_path).strip() == "unreachable"


def test_code_that_broke_out_cannot_fork(tmp_path: Path) -> None:
    code = (
        "try:\n    os.fork(); print('forked')\nexcept OSError:\n    print('alone')\n"
        "threading.Thread(target=print, args=('thread',)).start()\n"
    )
    assert broken_out(code, tmp_path).split() == ["alone", "thread"]


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except Exception: pass\nwhile True: pass",
        "import threading\nfor _ in range(50):\n"
        "    threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()",
        "import atexit, time\natexit.register(lambda: time.sleep(60))\ntime.sleep(60)",
        "import time\nclass Stay:\n    def __del__(self): time.sleep(60)\nx = Stay()\ndel x",
        "x = 10 ** 10 ** 8",
        "import re; re.match('(a+)+$', 'a' * 60 + 'b')",
    ],
)
def test_nothing_outlives_its_limit(code: str) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    found: list[Ran] = []
    thread = threading.Thread(target=lambda: found.append(run(code, tests="", timeout_s=0.7)))
    started = time.monotonic()
    thread.start()
    thread.join(30)
    assert found, f"still there after {time.monotonic() - started:.0f} s"
    assert not found[0].completed
    left = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    assert left == []
