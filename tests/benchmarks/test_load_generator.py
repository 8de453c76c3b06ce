"""The load generator over real HTTP."""

import subprocess
import sys
import threading

import pytest

from benchmarks.runtime import http_load, servers
from benchmarks.runtime.http_load import Prompts
from edge_agent.errors import Unavailable
from tests.benchmarks.benchmark_cases import target_at
from tests.benchmarks.scripted_openai import Script, scripted


def test_so_many_requests_are_under_way_at_a_time_as_asked_for():
    script = Script(together=threading.Barrier(4))
    with scripted(script) as url:
        target = target_at(url)
        requests = [target.request(Prompts(n).cold(3), 5) for n in range(8)]
        load = http_load.run(target, requests, 4, timeout_s=30)
    assert load.errors == ()
    assert [timing.completion_tokens for timing in load.good] == [5] * 8
    assert load.good[0].text == "t0 t1 t2 t3 t4 "
    assert len({str(body["messages"]) for body in script.bodies}) == 8


def test_a_request_that_does_not_end_is_an_error():
    silent = threading.Event()
    with scripted(Script(silent=silent)) as url:
        target = target_at(url)
        load = http_load.run(target, [target.request(Prompts(0).cold(3), 5)], 1, timeout_s=0.2)
        silent.set()
    assert load.errors == ("no end within 0.2 s",)


def test_a_server_that_is_not_there_is_an_error_of_every_request():
    with scripted(Script()) as url:
        pass
    target = target_at(url)
    load = http_load.run(target, [target.request([], 1)] * 3, 2, timeout_s=5)
    assert [error[:13] for error in load.errors] == ["no connection"] * 3


def test_a_server_is_known_by_the_owner_of_its_model():
    with scripted(Script(owner="llamacpp")) as url:
        found = servers.find(url + "/v1")
    assert (found.name, found.model, found.fields) == (
        "llama-server",
        "small",
        {"ignore_eos": True},
    )


def test_a_server_that_refuses_ignore_eos_is_asked_without():
    script = Script(refuses="ignore_eos", owner="someone")
    with scripted(script) as url:
        found = servers.find(url)
        assert found.name == url.removeprefix("http://")
    assert found.fields == {}


def test_a_server_that_answers_no_chat_is_refused_with_its_own_words():
    with (
        scripted(Script(refuses="messages")) as url,
        pytest.raises(Unavailable, match="messages is not known"),
    ):
        servers.find(url)


def test_prompts_are_the_seeds_and_begin_differently():
    assert Prompts(1).cold(20) == Prompts(1).cold(20)
    prompts = Prompts(1)
    texts = [prompts.cold(20)[0]["content"] for _ in range(20)]
    assert len({" ".join(text.split()[:3]) for text in texts}) == 20
    assert all(len(text.split()) == 20 for text in texts)


LISTENER = """
import socket, sys
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_the_process_behind_a_url_is_found():
    with subprocess.Popen(
        [sys.executable, "-c", LISTENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert servers.process_at(f"http://127.0.0.1:{port}") == process.pid
        process.communicate("")
    assert servers.process_at(f"http://127.0.0.1:{port}") is None
