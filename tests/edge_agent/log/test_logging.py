"""What is saved is found again, and what must not be written is not."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import NotFound, StoreError
from edge_agent.log.store import Store
from edge_agent.records.generation import SamplingParams
from edge_agent.records.query import Audit, Feedback, Reason, RecentDecision, Route, Source, Usage
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome


def explained(store: Store, query_id: str) -> dict[str, Any]:
    found = store.reader.explain(query_id, token_ids=True)
    assert found is not None
    return found


def test_everything_about_a_query_comes_back(store: Store) -> None:
    query = a_query(
        "Prüfe 東京 🗼",
        n=2,
        task="sums",
        reference="42",
        grader={"type": "numeric"},
        private=True,
        prompt_ids=(0, 65_535, 65_536, 4_000_000_000),
        sampling=SamplingParams(temperature=0.0, stop=("\n",), logit_bias={7: -100.0}),
        tools=({"type": "function", "function": {"name": "add"}},),
    )
    decision = a_decision(
        reason=Reason.BUDGET,
        wanted=Route.CLOUD,
        propensity=0.98,
        p_first=0.03,
        dual=0.5,
        budget={"rate": {"limit": 30, "used": 30}},
        gain=0.25,
        price=0.1,
        after="draft",
        draft_logprob=-7.5,
    )
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    outcome = an_outcome(
        texts=("Forty-two.", ""),
        finish_reasons=("stop", "tool_calls"),
        tool_calls=((), (call,)),
        token_ids=((5, 6, 2), ()),
        adapter="v3",
        cloud_usage=Usage(11, 7, 2),
        error="stream cut",
        source=Source.FALLBACK,
        disconnected=True,
        draft="Forty…",
    )
    store.save(query, decision, outcome).result()
    found = explained(store, f"chatcmpl-{query.id}")
    assert found["query"] == {
        "seq": 1,
        "id": query.id,
        "at": query.at,
        "kind": "chat",
        "model": "edge",
        "client": "",
        "task": "sums",
        "route": "auto",
        "private": True,
        "prompt": "Prüfe 東京 🗼",
        "messages": [{"role": "user", "content": "Prüfe 東京 🗼"}],
        "tools": list(query.tools),
        "request": {"model": "edge", "temperature": 0},
        "sampling": {"temperature": 0.0, "stop": ["\n"], "logit_bias": {"7": -100.0}},
        "n": 2,
        "reference": "42",
        "grader": {"type": "numeric"},
        "template": "0123456789abcdef",
        "prompt_ids": [0, 65_535, 65_536, 4_000_000_000],
        "door": "chat/completions",
    }
    assert found["decision"] == {
        "seq": 1,
        "route": "local",
        "reason": "budget",
        "wanted": "cloud",
        "p_offload": 0.04,
        "p_first": 0.03,
        "threshold": 0.31,
        "propensity": 0.98,
        "adapter": "v3",
        "dual": 0.5,
        "budget": {"rate": {"limit": 30, "used": 30}},
        "audit": False,
        "gain": 0.25,
        "price": 0.1,
        "decided_after": "draft",
        "draft_logprob": -7.5,
        "draft": "Forty…",
    }
    response = found["response"]
    assert (response["source"], response["error"]) == ("fallback", "stream cut")
    assert response["disconnected"] is True
    assert (response["cloud_prompt_tokens"], response["cloud_cached_tokens"]) == (11, 2)
    first, second = response["choices"]
    assert (first["text"], first["token_ids"]) == ("Forty-two.", [5, 6, 2])
    assert (second["tool_calls"], second["token_ids"]) == ([call], [])
    assert (second["number"], second["finish_reason"]) == (1, "tool_calls")


def test_token_ids_are_left_out_unless_asked_for(store: Store) -> None:
    query = a_query()
    store.save(query, a_decision(), an_outcome()).result()
    found = store.explain(query.id)
    assert found is not None
    assert "prompt_ids" not in found["query"]
    assert "token_ids" not in found["response"]["choices"][0]


def test_plain_completion(store: Store) -> None:
    query = a_query(messages=(), prompt="Once upon", body={"prompt": "Once upon", "stop": "."})
    store.save(query, a_decision(), an_outcome()).result()
    found = explained(store, f"cmpl-{query.id}")["query"]
    assert (found["kind"], found["prompt"], found["messages"]) == ("completion", "Once upon", None)
    assert found["request"] == {"stop": "."}


def test_prompt_is_the_text_the_user_last_said(store: Store) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    query = a_query(
        messages=(
            {"role": "user", "content": "old"},
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]},
            {"role": "assistant", "content": None, "tool_calls": []},
        )
    )
    store.save(query, a_decision(), an_outcome()).result()
    assert explained(store, query.id)["query"]["prompt"] == "What is this?"


def test_half_an_emoji_does_not_lose_the_row(store: Store) -> None:
    query = a_query("cut \ud83d here")
    store.save(query, a_decision(), an_outcome("answer \ud83d")).result()
    assert explained(store, query.id)["query"]["prompt"] == "cut ? here"


def test_feedback_and_audit_hang_on_the_query(store: Store) -> None:
    query = a_query()
    # The cloud may answer the audit before the local answer has ended.
    store.save_audit(Audit(query.id, 5.0, "big", "42", Usage(9, 2), 0.001)).result()
    store.save(query, a_decision(audit=True), an_outcome()).result()
    store.save_feedback(Feedback(query.id, 6.0, rating=-1.0, correction="41")).result()
    store.save_feedback(Feedback(query.id, 7.0, rating=1.0)).result()
    found = explained(store, query.id)
    assert [f["rating"] for f in found["feedback"]] == [-1.0, 1.0]
    assert found["audit"][0]["text"] == "42"
    assert found["audit"][0]["prompt_tokens"] == 9
    assert store.reader.tail()[0]["rating"] == 1.0


def test_feedback_on_an_unknown_response(store: Store) -> None:
    with pytest.raises(NotFound, match="no response 'nonsense' in the log"):
        store.save_feedback(Feedback("nonsense", 1.0, rating=1.0)).result()


def test_a_bad_row_fails_alone(store: Store) -> None:
    query = a_query()
    store.save(query, a_decision(), an_outcome()).result()
    futures = [
        store.save(q, a_decision(), an_outcome())
        for q in (a_query(), query, a_query(body={"bad": object()}), a_query())
    ]
    failures = [future.exception(timeout=10) for future in futures]
    assert [type(f) for f in failures] == [type(None), StoreError, StoreError, type(None)]
    assert "not JSON serializable" in str(failures[2])
    assert len(store.reader.tail()) == 3


@pytest.mark.parametrize("how", ["query", "switch", "configuration"])
def test_unlogged_queries_leave_no_content_but_are_counted(database: Path, how: str) -> None:
    from edge_agent.log.admin import set_log_enabled

    store = Store(database, enabled=how != "configuration")
    if how == "switch":
        set_log_enabled(database, on=False)
        assert not store.enabled
    query = a_query("the combination is 7041", log=how != "query")
    store.save_audit(Audit(query.id, 5.0, "big", "say 7041", Usage(), None)).result()
    store.save(query, a_decision(), an_outcome("I remember 7041")).result()
    store.save_audit(Audit(query.id, 5.0, "big", "say 7041", Usage(), None)).result()
    assert store.explain(query.id) is None
    with pytest.raises(NotFound):
        store.save_feedback(Feedback(query.id, 1.0, correction="7041")).result()
    store.close()
    with sqlite3.connect(database) as db:
        assert db.execute("SELECT query_id, logged FROM arrival").fetchall() == [(query.id, 0)]
    assert b"7041" not in database.read_bytes()


def test_logging_can_be_switched_while_running(database: Path, store: Store) -> None:
    from edge_agent.log.admin import set_log_enabled

    for on in (False, True):
        set_log_enabled(database, on)
        assert store.enabled is on
        store.save(a_query(), a_decision(), an_outcome()).result()
    assert [row["seq"] for row in store.reader.tail()] == [2]


def test_recent_decisions_of_one_adapter_newest_last(store: Store) -> None:
    for p, adapter in ((0.1, "v1"), (0.2, "v2"), (0.3, "v1"), (None, "v1"), (0.4, "v1")):
        store.save(
            a_query(route=Route.AUTO),
            a_decision(p_offload=p, wanted=Route.CLOUD, reason=Reason.BUDGET),
            an_outcome(adapter=adapter),
        ).result()
    assert store.recent_decisions(2, "v1") == [
        RecentDecision(p, Route.LOCAL, Reason.BUDGET, Route.CLOUD, "v1", Route.AUTO)
        for p in (0.3, 0.4)
    ]


def test_a_recent_decision_knows_its_draft(store: Store) -> None:
    drafted = a_decision(reason=Reason.DRAFT, after="draft", draft_logprob=-7.5)
    store.save(a_query(), drafted, an_outcome(adapter="v1")).result()
    (found,) = store.recent_decisions(1, "v1")
    assert (found.reason, found.after, found.draft_logprob) == (Reason.DRAFT, "draft", -7.5)


@pytest.mark.parametrize(("used", "over_rate"), [(29, True), (28, False)])
def test_a_decision_that_the_rate_rule_refused_is_known_by_the_budget_it_saw(
    store: Store, used: int, over_rate: bool
) -> None:
    rate = {"limit": 30, "used": used, "reserved": 1, "resets_at": None}
    money = {"limit": 1.0, "used": 1.0, "reserved": 0.0, "resets_at": 0.0}
    decision = a_decision(
        p_offload=0.5,
        wanted=Route.CLOUD,
        reason=Reason.BUDGET,
        budget={"rate": rate, "usd_per_day": money},
    )
    store.save(a_query(), decision, an_outcome(adapter="v1")).result()
    assert store.recent_decisions(1, "v1")[0].over_rate is over_rate


def test_todays_counts(store: Store) -> None:
    for source in (Source.LOCAL, Source.CLOUD, Source.CLOUD, Source.FALLBACK):
        store.save(a_query(), a_decision(), an_outcome(source=source)).result()
    store.save(a_query(at=86_400.0), a_decision(), an_outcome()).result()
    assert store.counts_today() == {"queries": 4, "local": 1, "cloud": 2, "fallback": 1}
