"""The log, the adapters and training over HTTP: paged, followed, exported, forgotten, weighed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from edge_agent.log.exchange import attributes
from tests.described import Document
from tests.end_to_end.processes import Running, running


@pytest.fixture(scope="module")
def http(daemon: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=daemon.url, timeout=120) as found:
        yield found


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> Document:
    return Document(http.get("/openapi.json").json())


@pytest.fixture(scope="module")
def ids(client: openai.OpenAI) -> list[str]:
    """Five queries: three sums asked of the cloud, one local, one private; oldest first."""
    return [
        *(ask(client, f"Calculate {n} + 1.", task="sums", route="cloud") for n in (10, 20, 30)),
        ask(client, "Name a river.", task="rivers", route="local"),
        ask(client, "A secret river.", private=True),
    ]


def ask(client: openai.OpenAI, text: str, **extension: Any) -> str:
    answer: Any = client.chat.completions.create(
        model="edge",
        messages=[{"role": "user", "content": text}],
        max_tokens=6,
        extra_body={"edge_agent": extension},
    )
    found: str = answer.edge_agent["id"]
    return found


def test_pages_and_filters(http: httpx.Client, document: Document, ids: list[str]) -> None:
    def found(**query: Any) -> list[str]:
        answer = http.get("/v1/log", params=query)
        document.check(answer)
        return [row["id"] for row in answer.json()["data"]]

    assert found() == ids[::-1]
    first = http.get("/v1/log", params={"limit": 3}).json()
    assert [row["id"] for row in first["data"]] == ids[:1:-1]
    rest = http.get("/v1/log", params={"limit": 3, "before": first["next"]}).json()
    assert ([row["id"] for row in rest["data"]], rest["next"]) == (ids[1::-1], None)
    assert first["tasks"] == ["rivers", "sums"]
    assert "the query is private" in first["data"][0]["why"]
    assert found(route="cloud") == ids[2::-1]
    assert found(reason="private") == [ids[4]]
    assert found(task="rivers") == [ids[3]]
    assert found(words="river") == [ids[4], ids[3]]
    assert found(words="river", task="rivers") == [ids[3]]
    assert found(words='" "') == []
    at = {row["id"]: row["at"] for row in http.get("/v1/log").json()["data"]}
    assert found(since=at[ids[1]], until=at[ids[3]]) == [ids[2], ids[1]]
    for wrong in ({"limit": 0}, {"route": "auto"}, {"reason": "whim"}, {"before": 0}):
        document.check(refused := http.get("/v1/log", params=wrong))
        assert refused.status_code == 400


@pytest.mark.usefixtures("ids")
def test_rows_come_as_answers_end(
    http: httpx.Client, document: Document, client: openai.OpenAI
) -> None:
    with http.stream("GET", "/v1/log/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        assert next(lines).startswith(":")
        asked = ask(client, "Calculate 40 + 2.", route="cloud")
        row = json.loads(next(line for line in lines if line.startswith("data: "))[6:])
    assert row["id"] == asked
    assert "forced by the client" in row["why"]
    schema = document.found["paths"]["/v1/log/events"]["get"]["responses"]["200"]["content"]
    document._validator(json.dumps(schema["text/event-stream"]["schema"])).validate(row)
    assert http.delete(f"/v1/decisions/{asked}").json()["queries"] == 1


def follows(http: httpx.Client) -> int:
    """The status of one more that follows, and leaves at once."""
    with http.stream("GET", "/v1/log/events") as stream:
        return stream.status_code


def test_no_more_than_sixteen_follow_and_who_leaves_makes_room(daemon: Running) -> None:
    with httpx.Client(base_url=daemon.url, timeout=60) as http:
        followers = [http.stream("GET", "/v1/log/events") for _ in range(16)]
        for stream in followers:
            assert stream.__enter__().status_code == 200
        refused = http.get("/v1/log/events")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        for stream in followers:
            stream.__exit__(None, None, None)
        deadline = time.monotonic() + 60
        while follows(http) != 200:
            assert time.monotonic() < deadline, "nobody's leaving was noticed"
            time.sleep(0.1)


def test_export_is_what_the_command_prints(
    http: httpx.Client, document: Document, ids: list[str], daemon_dir: Path
) -> None:
    answer = http.get("/v1/log/export")
    document.check(answer)
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["query"]["id"] for row in rows] == ids
    assert attributes(rows[0])["edge_agent.task"] == "sums"
    printed = subprocess.run(
        [sys.executable, "-m", "edge_agent", "logs", "export", "--data-dir", str(daemon_dir)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout == answer.text


def test_what_another_rate_would_have_cost(
    http: httpx.Client, document: Document, ids: list[str]
) -> None:
    answer = http.get("/v1/log/whatif")
    document.check(answer)
    found = answer.json()
    assert (found["queries"], found["free"], found["calls"]) == (len(ids), 0, 3)
    assert len(found["points"]) == 101
    assert {point["calls"] for point in found["points"]} == {3}, "they were forced"


def test_forget_one(http: httpx.Client, document: Document, client: openai.OpenAI) -> None:
    asked = ask(client, "Forget me not.", route="local")
    path = f"/v1/decisions/chatcmpl-{asked}"
    document.check(looked := http.delete(path, params={"dry_run": True}))
    assert (looked.json()["queries"], looked.json()["dry_run"]) == (1, True)
    assert http.get(path).status_code == 200
    assert http.get(path).json()["why"] == "kept local: forced by the client"
    assert http.delete(path).json()["queries"] == 1
    assert http.get(path).status_code == 404
    assert http.get("/v1/log", params={"words": "forget me"}).json()["data"] == []
    document.check(unknown := http.delete("/v1/decisions/nobody"))
    assert unknown.status_code == 404


def test_adapters(http: httpx.Client, document: Document) -> None:
    document.check(listed := http.get("/v1/adapters"))
    assert listed.json() == {"object": "list", "data": [], "served": "base"}
    for path, body in (("activate", {"version": "v0001"}), ("rollback", None)):
        document.check(refused := http.post(f"/v1/adapters/{path}", json=body))
        assert refused.status_code == 400
    document.check(based := http.post("/v1/adapters/activate", json={"version": "base"}))
    assert based.json()["version"] == "base"


def test_a_round_that_cannot_learn_says_why(http: httpx.Client, document: Document) -> None:
    document.check(http.post("/v1/training/stop"))
    document.check(unknown := http.get("/v1/training/7/steps"))
    assert unknown.status_code == 404
    document.check(started := http.post("/v1/training/start"))
    assert started.json()["state"] == "starting"
    deadline = time.monotonic() + 300
    while not (found := http.get("/v1/training").json())["failure"]:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert "learn" in found["failure"] or "train" in found["failure"], found


def test_a_page_that_follows_does_not_hold_the_daemon_up(tmp_path: Path) -> None:
    with running("serve", "--port", "0", "--threads", "1", data_dir=tmp_path) as daemon:
        ended = threading.Event()

        def follow() -> None:
            with httpx.stream("GET", f"{daemon.url}/v1/log/events", timeout=120) as stream:
                os.kill(daemon.process.pid, signal.SIGTERM)
                for _ in stream.iter_bytes():
                    pass
            ended.set()

        threading.Thread(target=follow, daemon=True).start()
        assert daemon.process.wait(60) == 0
        assert ended.wait(30), "the stream ended by itself, not by a reset"
