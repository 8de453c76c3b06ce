"""The dashboard and the alert rules name the metrics of /metrics: all of them, and no other."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.server.scripted_agent import ScriptedAgent

FOLDER = Path(__file__).parents[2] / "docs/grafana"
RULES = FOLDER / "alerts.yaml"
WORDS = {
    *("sum", "by", "rate", "increase", "histogram_quantile", "up"),  # of PromQL, and its own metric
    *("le", "route", "reason", "path", "status", "limit", "instance", "job"),  # labels
}
NOT_SHOWN = re.compile(r"process_(?!resident|cpu)|_created$|_count$|_sum$")
"""What every Python process tells, and the parts of a histogram that a quantile does not need."""


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    return found


def metrics_in(expression: str) -> set[str]:
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", expression)
    return set(re.findall(r"[a-z_][a-z0-9_]+", bare)) - WORDS


@pytest.fixture
async def samples(client: httpx.AsyncClient, agent: ScriptedAgent) -> set[str]:
    """Every sample of an agent that has answered, refused and trains."""
    message = {"role": "user", "content": "Hi"}
    for model in ("edge", "no-such-model"):
        body = {"model": model, "messages": [message]}
        await client.post("/v1/chat/completions", json=body)
    step = {"step": 1, "dual": 0.1, "rate": 0.3, "reward_local": 0.5}
    training = {"running": {"id": 1, "step": step}}
    agent.training_report = lambda limit=20: training  # type: ignore[method-assign,assignment]
    agent.price = lambda _version: 0.1  # type: ignore[method-assign,assignment]
    text = (await client.get("/metrics")).text
    families = text_string_to_metric_families(text)
    return {sample.name for family in families for sample in family.samples}


async def test_every_metric_that_is_named_exists_and_every_one_is_shown(
    samples: set[str],
) -> None:
    shown = {
        name
        for panel in dashboard()["panels"]
        for target in panel["targets"]
        for name in metrics_in(target["expr"])
    }
    assert shown <= samples, "the dashboard names what /metrics has not"
    missing = {name for name in samples - shown if not NOT_SHOWN.search(name)}
    assert not missing, "/metrics has what the dashboard does not show"
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert set().union(*(metrics_in(rule["expr"]) for rule in rules)) <= samples


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    found = dashboard()
    assert found["schemaVersion"] >= 36
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"] for variable in found["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(found["panels"])))
    assert {name for name in used if not name.startswith("__")} == variables
    cells: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        at = panel["gridPos"]
        area = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not area & cells, f"{panel['title']} lies over another panel"
        assert at["x"] + at["w"] <= 24
        cells |= area


def test_every_rule_has_a_name_of_its_own_and_says_what_is_wrong() -> None:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert all(set(rule) >= {"alert", "expr", "labels", "annotations"} for rule in rules)
    assert len({rule["alert"] for rule in rules}) == len(rules)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_takes_the_rules() -> None:
    command = ["promtool", "check", "rules", str(RULES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
