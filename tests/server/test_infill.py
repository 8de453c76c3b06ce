"""Fill-in-the-middle as editors ask for it: /infill, and `suffix` at two other doors."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_agent.log.reader import LogReader
from edge_agent.records.query import Delta, Route
from models.llama.model import LlamaModel
from models.llama.vocabulary import Vocabulary
from tests.described import Document
from tests.server.scripted_agent import ScriptedAgent, says
from tests.server.serve_process import running
from tests.server.serving import Serve
from tests.tiny_gguf import SPECIAL, write_tiny_gguf

GAP: dict[str, Any] = {
    "input_prefix": "def add(a, b):\n",
    "prompt": "    return ",
    "input_suffix": "\n\nprint(add(1, 2))\n",
    "temperature": 0,
    "n_predict": 6,
}
BEFORE = GAP["input_prefix"] + GAP["prompt"]
IDLE = (b"<issue_closed>", b"<jupyter_text>", b"<jupyter_code>")
TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
FIM = (("pre", "<twin-a>"), ("suf", "<twin-b>"), ("mid", "<zero>"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The daemon's data directory."""
    return tmp_path_factory.mktemp("infill")


@pytest.fixture(scope="module")
def real(home: Path, smollm2: Path) -> Iterator[httpx.Client]:
    """A client of a daemon whose 135M model has idle tokens under the names that llama.cpp knows.

    It was never taught to fill a gap, but it says something.
    """
    weights = smollm2.read_bytes()
    for idle, token in zip(IDLE, TOKENS, strict=True):
        assert weights.count(idle, 0, 3_000_000) == 1
        weights = weights.replace(idle, token.encode(), 1)
    (home / "coder.gguf").write_bytes(weights)
    flags = ("--data-dir", str(home), "--model", str(home / "coder.gguf"), "--context", "512")
    with running(home, *flags) as daemon, httpx.Client(base_url=daemon.url, timeout=170) as found:
        yield found


def logged(home: Path) -> list[dict[str, Any]]:
    with LogReader(home / "edge-agent.db") as reader:
        return list(reader.tail(99))


def test_every_door_fills_the_same_gap(real: httpx.Client, home: Path) -> None:
    whole = real.post("/infill", json=GAP)
    document = Document(real.get("/openapi.json").json())
    document.check(whole)
    said = whole.json()
    assert said["stop"] is True
    assert 0 < said["tokens_predicted"] <= 6
    assert (said["edge_agent"]["route"], said["edge_agent"]["reason"]) == ("local", "requested")
    streamed = real.post("/infill", json={**GAP, "stream": True})
    document.check(streamed)
    *pieces, last = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line]
    assert "".join(piece["content"] for piece in pieces) == said["content"] != ""
    assert (last["content"], last["stop"]) == ("", True)
    assert last["tokens_predicted"] == said["tokens_predicted"]
    asked = {"model": "edge", "prompt": BEFORE, "suffix": GAP["input_suffix"]}
    openai = real.post("/v1/completions", json={**asked, "temperature": 0, "max_tokens": 6}).json()
    assert openai["choices"][0]["text"] == said["content"]
    assert openai["usage"]["prompt_tokens"] == said["tokens_evaluated"]
    options = {"temperature": 0, "num_predict": 6}
    asked |= {"stream": False, "options": options, "edge_agent": {"private": True}}
    assert real.post("/api/generate", json=asked).json()["response"] == said["content"]
    rows = logged(home)
    assert {row["door"] for row in rows} == {"infill", "completions", "api/generate"}
    (prompt,) = {row["prompt"] for row in rows}
    prefix, suffix, middle = TOKENS
    assert prompt.endswith(f"{prefix}{BEFORE}{suffix}{GAP['input_suffix']}{middle}")


def test_a_prompt_can_be_read_beforehand(real: httpx.Client, home: Path) -> None:
    """As llama.vim does while the user types elsewhere: nothing is answered, nothing logged."""
    before = len(logged(home))
    gap = {**GAP, "input_prefix": "import this\n" * 20, "n_predict": 0}
    read = real.post("/infill", json=gap).json()
    assert (read["content"], read["tokens_predicted"]) == ("", 0)
    assert read["timings"]["prompt_n"] > 20
    assert len(logged(home)) == before
    after = real.post("/infill", json={**gap, "n_predict": 1}).json()
    assert after["timings"]["prompt_n"] == 1
    assert after["tokens_evaluated"] == read["tokens_evaluated"]


def test_what_is_beyond_the_context_is_left_out(real: httpx.Client) -> None:
    gap = {**GAP, "input_prefix": "x = 1\n" * 900, "n_predict": 2}
    extra = [{"filename": "a.py", "text": "y = 2\n", "time": 17}]
    # As llama.vim asks:
    fields = ["content", "timings/prompt_n", "timings/predicted_ms", "truncated", "nonsense"]
    asked = {**gap, "input_extra": extra, "response_fields": fields, "n_predict": 0}
    answer = real.post("/infill", json=asked).json()
    assert set(answer) == {"content", "timings/prompt_n", "timings/predicted_ms", "truncated"}
    assert answer["truncated"] is True
    assert answer["timings/prompt_n"] > 400


@pytest.fixture
def coder(agent: ScriptedAgent, tmp_path: Path) -> Iterator[ScriptedAgent]:
    """The scripted agent, over a vocabulary that knows gaps."""
    ids = {f"tokenizer.ggml.fim_{name}_token_id": SPECIAL.index(text) for name, text in FIM}
    path = write_tiny_gguf(tmp_path / "tiny.gguf", metadata=ids)
    with LlamaModel(path, vocab_only=True) as model:
        agent.engine.vocabulary = Vocabulary(model)
        yield agent


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (Delta(finish_reason="stop"), ("eos", "")),
        (Delta(finish_reason="stop", stopped_by="\n"), ("word", "\n")),
        (Delta(finish_reason="length"), ("limit", "")),
    ],
)
async def test_why_it_ended(
    client: httpx.AsyncClient, coder: ScriptedAgent, end: Delta, told: tuple[str, str]
) -> None:
    coder.script = says(Delta(text="a + b", token_ids=(7,)), end)
    answer = (await client.post("/infill", json={**GAP, "stop": ["\n"]})).json()
    assert answer["content"] == "a + b"
    assert (answer["stop_type"], answer["stopping_word"]) == told


async def test_what_an_editor_sends_along(client: httpx.AsyncClient, coder: ScriptedAgent) -> None:
    hints = {"samplers": ["top_k", "top_p", "infill"], "cache_prompt": True, "top_k": 7}
    unheard = {"n_indent": 4, "t_max_prompt_ms": 500, "t_max_predict_ms": 200}
    body = {**GAP, "model": " ", "temperature": None, "n_predict": -1, **hints, **unheard}
    answer = await client.post("/infill", json=body)
    assert answer.json()["edge_agent"]["ignored"] == list(unheard)
    (asked,) = [answer.query for answer in coder.answers]
    assert (asked.door, asked.route, asked.model) == ("infill", Route.LOCAL, "edge")
    sampling = asked.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.8, 7, 0.95)
    assert sampling.max_tokens is None
    assert not {"input_prefix", "input_suffix", "prompt"} & set(asked.body)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "edge-cloud"}, "model"),
    ({"edge_agent": {"route": "cloud"}}, "model"),
    ({"n_predict": -2}, "n_predict"),
    ({"input_extra": [{"name": "a"}]}, "input_extra[0].name"),
    ({"input_prefix": "\ud800"}, "input_prefix"),
    ({"n_probs": 3}, "n_probs"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
async def test_a_wrong_field_is_named(
    client: httpx.AsyncClient, coder: ScriptedAgent, fields: dict[str, Any], param: str
) -> None:
    body = json.dumps({**GAP, **fields})
    headers = {"Content-Type": "application/json"}
    answer = await client.post("/infill", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/infill", GAP, "input_suffix"),
        ("/v1/completions", {"model": "edge", "prompt": "a", "suffix": "b"}, "suffix"),
        ("/api/generate", {"model": "edge", "prompt": "a", "suffix": "b"}, "suffix"),
    ],
)
async def test_a_model_without_the_tokens_says_so(
    client: httpx.AsyncClient, agent: ScriptedAgent, path: str, body: Any, param: str
) -> None:
    answer = await client.post(path, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    said = error if path.startswith("/api/") else error["message"]
    assert said.startswith(f"{param}: the local model has no tokens for fill-in-the-middle")
    assert not agent.answers


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"model": "edge-cloud"}, "suffix"), ({"prompt": [1, 2]}, "suffix"), ({"prompt": ""}, None)],
)
async def test_a_suffix_needs_a_text_and_the_local_model(
    client: httpx.AsyncClient, coder: ScriptedAgent, fields: dict[str, Any], param: str | None
) -> None:
    body = {"model": "edge", "prompt": "a", "suffix": "b", **fields}
    answer = await client.post("/v1/completions", json=body)
    assert answer.json().get("error", {}).get("param") == param


async def test_the_door_is_guarded(serve: Serve) -> None:
    async with serve(api_keys=("k",)) as client:
        assert (await client.post("/infill", json=GAP)).status_code == 401
    async with serve(max_body_mb=0.0001) as client:
        assert (await client.post("/infill", json=GAP)).status_code == 413
