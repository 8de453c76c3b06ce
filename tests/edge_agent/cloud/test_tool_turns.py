"""What a cloud said beside its tool calls outlives a restart, but not what is forgotten."""

from pathlib import Path
from typing import Any

import pytest

from edge_agent.cloud.tool_turns import ToolTurn, ToolTurns
from edge_agent.log.forget import Selection, forget
from edge_agent.log.store import Store
from edge_agent.records.query import Query
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome


def said(*ids: str, text: str = "Hm é") -> ToolTurn:
    details = [{"type": "reasoning.text", "text": text, "signature": "s"}]
    extras = {call_id: {"google": {"thought_signature": "t"}} for call_id in ids}
    return ToolTurn({"reasoning_content": text}, details, extras)


def history(*ids: str) -> list[dict[str, Any]]:
    """What a client sends back that knows of no thinking."""
    function = {"name": "weather", "arguments": "{}"}
    calls = [{"id": call_id, "type": "function", "function": function} for call_id in ids]
    results = [{"role": "tool", "tool_call_id": call_id, "content": "3 °C"} for call_id in ids]
    return [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": calls}, *results]


def answer(store: Store, turns: ToolTurns, turn: ToolTurn, **fields: Any) -> Query:
    """An answer that calls tools, kept and logged."""
    query = a_query(**fields)
    outcome = an_outcome(beside=turns.keep(turn))
    store.save(query, a_decision(), outcome).result()
    return query


def test_a_restart_keeps_them(store: Store, database: Path) -> None:
    turns = ToolTurns(database)
    answer(store, turns, said("a", "b"))
    (_, called, *_) = turns.restore(history("a", "b"))
    assert called["reasoning_content"] == "Hm é"
    assert called["reasoning_details"] == said().details
    assert [call["extra_content"] for call in called["tool_calls"]] == list(
        said("a", "b").extras.values()
    )
    assert ToolTurns(database).restore(history("a", "b")) == turns.restore(history("a", "b"))
    assert ToolTurns(database).restore(history("c")) == history("c")


def test_of_a_call_id_that_comes_again_the_latest_is_meant(store: Store, database: Path) -> None:
    turns = ToolTurns(database)
    for text in ("first", "then"):
        answer(store, turns, said("call_0", text=text))
    for known in (turns, ToolTurns(database)):
        assert known.restore(history("call_0"))[1]["reasoning_content"] == "then"


def test_what_is_not_logged_is_in_memory_alone(store: Store, database: Path) -> None:
    turns = ToolTurns(database)
    answer(store, turns, said("a"), log=False)
    assert turns.restore(history("a")) != history("a")
    assert ToolTurns(database).restore(history("a")) == history("a")


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("log", [False, True])
def test_forgetting_the_log_forgets_them_also_in_memory(
    store: Store, database: Path, log: bool, named: bool
) -> None:
    turns = ToolTurns(database)
    query = answer(store, turns, said("a", text="secretthought"), log=log)
    forget(database, Selection((query.id,)) if named else Selection())
    for known in (turns, ToolTurns(database)):
        assert known.restore(history("a")) == history("a")
    files = [database, database.with_name(database.name + "-wal")]
    assert not any(b"secretthought" in file.read_bytes() for file in files if file.exists())
    answer(store, turns, said("b"))
    assert turns.restore(history("b")) != history("b")


def test_a_database_that_cannot_be_read_costs_only_what_it_held(
    store: Store, database: Path
) -> None:
    turns = ToolTurns(database)
    answer(store, turns, said("a"))
    store.close()
    database.write_bytes(b"no database" * 99)
    assert turns.restore(history("a")) != history("a")
    assert ToolTurns(database).restore(history("a")) == history("a")
