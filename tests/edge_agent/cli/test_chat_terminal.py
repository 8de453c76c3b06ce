"""`edge-agent chat` on a terminal: the prompt, Ctrl-C, Ctrl-D."""

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest


class Terminal:
    """A chat on a pseudo-terminal; `shown` is everything printed so far."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_agent", "chat"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(slave)
        self.shown = ""

    def wait_for(self, text: str, times: int = 1) -> None:
        """Read until `text` was shown that often."""
        while self.shown.count(text) < times:
            assert self.has_more(30), f"{text!r} did not come; shown: {self.shown!r}"
            self.shown += os.read(self._master, 4096).decode()

    def has_more(self, seconds: float) -> bool:
        """Whether anything more is shown within `seconds`."""
        return bool(select.select([self._master], [], [], seconds)[0])

    def type(self, text: str) -> None:
        """As from the keyboard."""
        os.write(self._master, text.encode())

    def close(self) -> None:
        """End the session whatever state it is in."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(daemon) -> Iterator[Terminal]:
    """A chat with the small daemon."""
    session = Terminal()
    yield session
    session.close()


def test_ctrl_d_leaves(terminal: Terminal):
    terminal.wait_for("> ")
    terminal.type("hello\n")
    terminal.wait_for("● local")
    terminal.wait_for("> ", 2)
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0
    assert "/help lists the commands" in terminal.shown


def test_ctrl_c_stops_the_answer_and_the_session_goes_on(terminal: Terminal, daemon):
    daemon.holds = True
    terminal.wait_for("> ")
    terminal.type("hello\n")
    terminal.wait_for("Forty-two.")
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("stopped")
    assert daemon.client_left.wait(30)
    daemon.holds = False
    terminal.wait_for("> ", 2)
    terminal.type("again\n")
    terminal.wait_for("● local")
    sent = [message["content"] for message in daemon.requests[-1][2]["messages"]]
    assert sent == ["hello", "Forty-two.", "again"]


def test_ctrl_c_at_the_prompt_gives_a_new_one(terminal: Terminal):
    terminal.wait_for("> ")
    for _ in range(30):  # a signal between the prompt and the wait for a key shows at the next one
        terminal.process.send_signal(signal.SIGINT)
        if terminal.has_more(1):
            break
    terminal.wait_for("> ", 2)
    assert terminal.process.poll() is None
