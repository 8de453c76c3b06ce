"""Missing references are bought from the reference cloud, over HTTP and through the ledger."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ulid import ULID

from edge_agent.budget.ledger import Ledger
from edge_agent.chat.template import ChatTemplate, template_digest
from edge_agent.config.settings import BudgetSettings, Settings
from edge_agent.errors import ConfigError
from edge_agent.learning.journal import Position
from edge_agent.log.store import Store
from edge_agent.records.query import Decision, Outcome, Query, Reason, Route, Source, Usage
from models.gguf import inspect
from models.llama.model import LlamaModel
from models.llama.vocabulary import Vocabulary
from tests.end_to_end.processes import Running, running
from tests.tiny_gguf import write_tiny_gguf
from trainer.data import items
from trainer.data.purchase import buy

Save = Callable[..., str]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    arguments = ("--port", "0", "--latency-ms", "1", "--accuracy", "1")
    with running("reference-cloud", *arguments, data_dir=tmp_path_factory.mktemp("c")) as found:
        yield found


@pytest.fixture
def settings(tmp_path: Path, cloud: Running) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        model=str(write_tiny_gguf(tmp_path / "tiny.gguf")),
        cloud={
            "url": cloud.base_url,
            "model": "reference-cloud",
            "prices": {"reference-cloud": {"input": 1, "output": 1}},
        },
        budget={"rate": None},
    )


@pytest.fixture
def save(settings: Settings) -> Iterator[Save]:
    """Log a sum that was answered locally; returns its id."""
    template = template_digest(inspect(Path(settings.model)).chat_template)
    with closing(Store(settings.database)) as store:

        def save(number: int, **fields: Any) -> str:
            message = {"role": "user", "content": f"Calculate {number} + 1."}
            query = Query(
                id=str(ULID()),
                at=1.0,
                model="edge",
                prompt_ids=(1, 2),
                messages=(message,),
                body={"model": "edge", "messages": [message], "n": 3, "max_tokens": 20},
                **({"template": template} | fields),
            )
            outcome = Outcome(Source.LOCAL, Usage(), ("?",), ("stop",))
            store.save(query, Decision(Route.LOCAL, Reason.THRESHOLD), outcome).result()
            return query.id

        yield save


def references(settings: Settings) -> dict[str, str]:
    """What a round would find to grade against."""
    found = items.load(
        settings.database,
        template=None,
        render=lambda _: (),
        until=items.newest(settings.database),
    )
    return {item.query_id: item.reference for item in found.items}


def asked(cloud: Running) -> int:
    return int(cloud.get("/stats")["requests"])


def test_the_newest_missing_references_are_bought_and_stay_in_the_log(
    settings: Settings, save: Save, cloud: Running
) -> None:
    before = asked(cloud)
    ids = [save(number) for number in range(5)]
    bought = buy(settings, 3, since=Position())
    assert (bought.answers, bought.missing, bought.stopped) == (3, 3, None)
    assert bought.cost_usd is not None
    assert bought.cost_usd > 0
    assert references(settings) == {ids[4]: "5", ids[3]: "4", ids[2]: "3"}
    assert buy(settings, 10, since=Position()).answers == 2
    assert buy(settings, 10, since=Position()).missing == 0
    assert asked(cloud) - before == 5
    with Ledger(settings.database, seed=settings.budget) as ledger:
        used = ledger.state()
    assert used["calls_per_day"].used == 5
    assert used["calls_per_day"].reserved == 0


def test_what_may_not_leave_or_needs_nothing_is_not_asked_about(
    settings: Settings, save: Save, cloud: Running
) -> None:
    before = asked(cloud)
    old = save(1)
    save(2, private=True)
    save(3, reference="4")
    save(4, route=Route.LOCAL)
    save(5, template="of another model")
    assert buy(settings, 10, since=Position(seq=1)).missing == 0
    assert asked(cloud) == before
    assert buy(settings, 10, since=Position()).answers == 1
    assert references(settings)[old] == "2"


def test_the_budget_ends_a_purchase_midway_and_is_not_overrun(
    settings: Settings, save: Save, cloud: Running
) -> None:
    before = asked(cloud)
    for number in range(8):
        save(number)
    limited = settings.model_copy(update={"budget": BudgetSettings(rate=None, calls_per_day=3)})
    bought = buy(limited, 8, since=Position())
    assert (bought.answers, bought.missing) == (3, 8)
    assert bought.stopped is not None
    assert "calls_per_day" in bought.stopped
    assert len(references(settings)) == 3
    assert buy(limited, 8, since=Position()).answers == 0
    assert asked(cloud) - before == 3


def test_without_a_cloud_nothing_is_bought_and_it_is_said(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"--allow-cloud needs a cloud"):
        buy(Settings(data_dir=settings.data_dir, model=settings.model), 1, since=Position())


def test_a_cloud_that_keeps_failing_is_left_alone(settings: Settings, save: Save) -> None:
    for number in range(6):
        save(number)
    gone = settings.cloud.model_copy(update={"url": "http://127.0.0.1:9/v1", "retries": 0})
    bought = buy(settings.model_copy(update={"cloud": gone}), 6, since=Position())
    assert (bought.answers, bought.cost_usd) == (0, 0.0)
    assert bought.stopped is not None
    assert references(settings) == {}


KILLED = """
import os, signal, sys
from edge_agent.budget.ledger import Ledger
from edge_agent.config.loading import load
from edge_agent.learning.journal import Position
from trainer.data.purchase import buy
real, settled = Ledger.settle, []
def settle(self, *arguments):
    settled.append(1)
    if len(settled) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *arguments)
Ledger.settle = settle
buy(load({"data_dir": sys.argv[1]}).settings, 8, since=Position())
"""


def test_a_kill_between_reserving_and_settling_costs_its_call_and_loses_nothing_else(
    settings: Settings, save: Save, cloud: Running
) -> None:
    for number in range(8):
        save(number)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(settings.data_dir)],
        env={
            **os.environ,
            "EDGE_AGENT_CONFIG": str(settings.data_dir / "none.toml"),
            "EDGE_AGENT_MODEL": settings.model,
            "EDGE_AGENT_CLOUD_URL": cloud.base_url,
            "EDGE_AGENT_CLOUD_MODEL": "reference-cloud",
            "EDGE_AGENT_CLOUD_PRICES": "{reference-cloud = {input = 1, output = 1}}",
            "EDGE_AGENT_BUDGET_RATE": "none",
        },
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(references(settings)) == 2
    limited = settings.model_copy(update={"budget": BudgetSettings(rate=None, calls_per_day=5)})
    with Ledger(settings.database, seed=limited.budget) as ledger:
        assert ledger.state()["calls_per_day"].reserved == 1
    bought = buy(limited, 8, since=Position())
    assert bought.answers == 2, "three of five calls are gone, one of them without an answer"
    with Ledger(settings.database, seed=limited.budget) as ledger:
        state = ledger.state()["calls_per_day"]
    assert (state.used, state.reserved) == (5, 0)


def test_the_template_is_named_as_the_daemon_names_it(settings: Settings, smollm2: Path) -> None:
    for path in (smollm2, Path(settings.model)):
        with closing(LlamaModel(path, vocab_only=True)) as model:
            served = ChatTemplate(None, Vocabulary(model))
        assert template_digest(inspect(path).chat_template) == served.digest
        assert template_digest("another") != served.digest


def test_the_command_buys_before_it_looks_at_what_there_is(
    settings: Settings, save: Save, cloud: Running
) -> None:
    save(1)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "edge_agent", "train", "--allow-cloud", "5", "--json"),
            *("--model", settings.model, "--data-dir", str(settings.data_dir)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "EDGE_AGENT_CLOUD_URL": cloud.base_url,
            "EDGE_AGENT_CLOUD_MODEL": "reference-cloud",
            "EDGE_AGENT_BUDGET_RATE": "none",
            "EDGE_AGENT_CONFIG": str(settings.data_dir / "none.toml"),
        },
    )
    event, look = map(json.loads, done.stdout.splitlines())
    assert (event["event"], event["answers"], event["missing"]) == ("purchase", 1, 1)
    assert done.returncode == 1
    assert "too little to learn from" in done.stderr
    assert "no answer" not in done.stderr, "the purchase is seen"
    assert look == {"event": "note", "text": "reading the log"}


CALL = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "add", "arguments": '{"n": 1}'},
}


class _Calling(BaseHTTPRequestHandler):
    """A cloud that answers with a call of a tool."""

    bodies: ClassVar[list[dict[str, Any]]] = []

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def do_POST(self) -> None:
        """POST /v1/chat/completions, streamed."""
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta, finish in (({"tool_calls": [CALL]}, None), ({}, "tool_calls")):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")


def test_a_query_with_tools_is_asked_with_them_and_its_call_is_the_reference(
    settings: Settings, save: Save
) -> None:
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}}
    tools = ({"type": "function", "function": {"name": "add", "parameters": parameters}},)
    query = save(1, tools=tools)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Calling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cloud = settings.cloud.model_copy(
            update={"url": f"http://127.0.0.1:{server.server_port}/v1"}
        )
        bought = buy(settings.model_copy(update={"cloud": cloud}), 10, since=Position())
        server.shutdown()
    assert (bought.answers, bought.stopped) == (1, None)
    (body,) = _Calling.bodies
    assert body["tools"] == list(tools)
    called = {"tool_calls": [{"name": "add", "arguments": {"n": 1}}]}
    assert {id_: json.loads(text) for id_, text in references(settings).items()} == {query: called}
