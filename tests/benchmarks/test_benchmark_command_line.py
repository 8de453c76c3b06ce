"""`edge-agent benchmark` as a user runs it, against small servers and small models."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from edge_agent.__main__ import root
from tests.benchmarks.scripted_openai import Script, scripted
from tests.tiny_gguf import write_tiny_gguf

LOAD = ("--concurrency", "1,2", "--requests", "2", "--repeats", "2", "--output-tokens", "5")


@pytest.fixture
def run(data_dir: Path, tmp_path: Path):
    """Run `edge-agent benchmark …` with its files in tmp_path/out; `code` is the exit status."""

    def run(*arguments: str, code: int = 0) -> Result:
        out = () if arguments[0] == "compare" else ("--out", str(tmp_path / "out"))
        result = CliRunner().invoke(root, ("benchmark", *arguments, *out))
        assert result.exit_code == code, result.output
        return result

    return run


def by_name(document: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(f["series"], f["metric"], f["at"]): f for f in document["figures"]}


def test_two_servers_are_measured_by_turns_with_ratios(run, tmp_path: Path):
    ours, theirs = Script(owner="edge-agent"), Script(owner="llamacpp")
    with scripted(ours) as url, scripted(theirs) as other:
        done = run(
            *("latency", "--url", url, "--versus", other, "--json", *LOAD),
            *("--part", "cold", "--part", "conversation"),
        )
    document = json.loads(done.stdout)
    assert {"cpu", "cores"} <= set(document["machine"])
    assert "edge-agent" in document["versions"]
    assert document["settings"]["servers"] == {"edge-agent": "small", "llama-server": "small"}
    figures = by_name(document)
    for name in ("edge-agent", "llama-server"):
        speed = figures[f"{name}, cold prefix", "output tok/s", "c=2"]
        assert len(speed["values"]) == 2
        assert speed["min"] <= speed["median"] <= speed["max"]
        for quantity in ("ttft", "itl", "tpot", "e2e"):
            for statistic in ("mean", "p50", "p95", "p99"):
                assert (f"{name}, cold prefix", f"{quantity} {statistic}", "c=1") in figures
    ratio = figures["edge-agent / llama-server, cold prefix", "ttft p50", "c=1"]
    first, second = (
        figures[f"{name}, cold prefix", "ttft p50", "c=1"]["values"]
        for name in ("edge-agent", "llama-server")
    )
    assert ratio["values"] == pytest.approx([a / b for a, b in zip(first, second, strict=True)])
    written = sorted(path.suffix for path in (tmp_path / "out").iterdir())
    assert written == [".json", ".png", ".svg"]


def test_prompts_of_a_cold_prefix_differ_and_those_of_a_warm_one_share_theirs(run):
    script = Script()
    with scripted(script) as url:
        run("latency", "--url", url, "--part", "cold", *LOAD)
        cold = [body["messages"] for body in script.bodies]
        script.bodies.clear()
        run("latency", "--url", url, "--part", "warm", *LOAD)
        warm = [body["messages"] for body in script.bodies[1:]]  # the first tries the server out
    assert all(len(messages) == 1 for messages in cold)
    beginnings = [" ".join(messages[0]["content"].split()[:3]) for messages in cold]
    assert len(set(beginnings)) == len(cold)
    assert len({messages[0]["content"] for messages in warm}) == 1
    assert len({messages[1]["content"] for messages in warm}) == len(warm)


def test_a_second_turn_goes_on_from_the_answer_of_the_first(run):
    script = Script()
    with scripted(script) as url:
        run("latency", "--url", url, "--part", "conversation", *LOAD)
    first, second, cold = (body["messages"] for body in script.bodies[1:4])
    assert second[0] == first[0]
    assert second[1] == {"role": "assistant", "content": "t0 t1 t2 t3 t4 "}
    assert cold[0] != first[0]
    assert [len(m["content"].split()) for m in cold] == [len(m["content"].split()) for m in second]


def test_what_is_measured_on_our_own_daemon_only_is_refused_elsewhere(run):
    with scripted(Script()) as url:
        refused = run("latency", "--url", url, "--part", "routes", code=1)
    assert "own" in refused.stderr
    assert "there are cold" in run("latency", "--part", "cloud", code=1).stderr
    assert "1,2,4" in run("latency", "--concurrency", "x", code=2).stderr


def test_a_run_that_breaks_off_keeps_what_it_measured(run, tmp_path: Path):
    script = Script()
    with scripted(script) as url:
        other = Script()
        with scripted(other) as gone:
            pass
        failed = run("latency", "--url", url, "--versus", gone, code=1)
        assert "no daemon" in failed.stderr
        assert not (tmp_path / "out").exists()
        script.fails_after = 9
        failed = run("latency", "--url", url, "--part", "cold", *LOAD, code=1)
    (path,) = (tmp_path / "out").glob("*.json")
    document = json.loads(path.read_text())
    assert document["figures"]
    assert any(note.startswith("Not whole: ") for note in document["notes"])


def test_every_quantization_is_measured_against_the_bandwidth(run, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("EDGE_AGENT_ENGINE_THREADS", "1")
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    done = run(
        *("engine", "--model", str(model), "--batches", "1,3"),
        *("--repeats", "2", "--json"),
    )
    figures = by_name(json.loads(done.stdout))
    names = {series for series, _, _ in figures}
    assert {"F32, as shipped", "Q4_0", "Q8_0", "BF16"} == names
    for name in names:
        assert figures[name, "pp512", ""]["median"] > 0
        assert len(figures[name, "tg128", "B=3"]["values"]) == 2
        assert figures[name, "share of the bandwidth limit", "B=1"]["median"] > 0


def test_compare_shows_what_changed(run, tmp_path: Path):
    with scripted(Script()) as url:
        done = run("latency", "--url", url, "--part", "cold", "--json", *LOAD)
    document = json.loads(done.stdout)
    for figure in document["figures"]:
        figure["values"] = [10.0, 11.0]  # what was measured may have any spread
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps(document))
    for figure in document["figures"]:
        figure["values"] = [value * 3 + 1 for value in figure["values"]]
    document["versions"]["edge-agent"] = "9.9"
    after.write_text(json.dumps(document))
    found = json.loads(run("compare", str(before), str(after), "--json").stdout)
    verdicts = {change["metric"]: change["verdict"] for change in found["changes"]}
    assert verdicts["ttft p50"] == "worse"
    assert verdicts["output tok/s"] == "better"
    shown = run("compare", str(before), str(after)).stdout
    assert "worse" in shown
    assert "versions edge-agent" in shown
    assert "is no result" in run("compare", str(before), __file__, code=1).stderr
