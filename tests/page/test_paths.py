"""What a person does on the page: ask, look, rate, search, explain, forget, learn, weigh costs."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.learning.journal import Journal, Position, StepRow
from tests.end_to_end.processes import Running, running
from tests.page.conftest import Visitor

pytestmark = pytest.mark.timeout(900)
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def rows(folder: Path, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """What the database says."""
    with contextlib.closing(sqlite3.connect(folder / "edge-agent.db")) as db:
        return db.execute(sql, arguments).fetchall()


def ask(page: Any, question: str, *, route: str = "local", task: str = "") -> Any:
    """Ask in Try and wait for the end of the answer, which is returned."""
    before = page.locator(".message.assistant").count()
    page.get_by_label("Route").select_option(route)
    page.get_by_label("Kind of work").fill(task)
    page.get_by_label("Most tokens").fill("12")
    page.get_by_label("Question").fill(question)
    page.get_by_label("Question").press("Enter")
    answer = page.locator(".message.assistant").nth(before)
    answer.get_by_role("button", name="Good answer").wait_for()
    return answer


def id_of(answer: Any) -> str:
    href: str = answer.get_by_role("link", name="Explain").get_attribute("href")
    return href.rpartition("/")[2]


def test_asked_seen_rated_explained_and_forgotten(
    visitor: Visitor, daemon_dir: Path, browser: Any
) -> None:
    watcher = Visitor(browser, visitor.url)
    live = watcher.open("live")
    live.get_by_text("Calls today").wait_for()

    page = visitor.open("try")
    streamed: list[str] = []
    page.expose_function("streamed", lambda text: streamed.append(text))  # noqa: PLW0108
    page.evaluate(
        """() => new MutationObserver(() => {
             const text = document.querySelector(".message.assistant .text")?.textContent;
             if (text) streamed(text);
           }).observe(document.querySelector(".messages"),
                      {subtree: true, childList: true, characterData: true})"""
    )
    answer = ask(page, "Name a river in Portugal.", task="rivers")
    said = answer.locator(".text").first.inner_text()
    assert len({text for text in streamed if len(text) < len(said)}) >= 2, "it came in pieces"
    assert "kept local: forced by the client" in answer.inner_text()
    query = id_of(answer)

    # Without loading anything again, the other tab has it.
    row = live.locator(f'tr[data-id="{query}"]')
    row.wait_for()
    assert "Name a river in Portugal." in row.inner_text()
    live.get_by_role("button", name="Hide questions").click()
    assert row.locator(".question").evaluate("e => getComputedStyle(e).visibility") == "hidden"
    assert watcher.problems == []
    watcher.context.close()

    answer.get_by_role("button", name="Good answer").click()
    answer.get_by_text("kept for training").wait_for()
    answer.get_by_role("button", name="Correct it").click()
    answer.get_by_label("What the answer should have been").fill("The Douro")
    answer.get_by_role("button", name="Keep").click()
    answer.get_by_text("The correction is kept").wait_for()
    feedback = rows(daemon_dir, "SELECT rating, correction FROM feedback WHERE query_id = ?", query)
    assert feedback == [(1.0, None), (None, "The Douro")]

    page = visitor.open("log")
    page.get_by_label("Search").fill("portugal")
    page.get_by_role("button", name="Search").click()
    page.get_by_text("Queries 1 to 1").wait_for()
    page.locator(f'tr[data-id="{query}"] a').click()
    page.get_by_text("The Douro").wait_for()
    assert said.strip() in page.locator("main").inner_text()

    page.get_by_role("button", name="Forget").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert rows(daemon_dir, "SELECT count(*) FROM query WHERE id = ?", query) == [(1,)]
    page.get_by_role("button", name="Forget").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    page.get_by_text("Forgotten.").wait_for()
    assert rows(daemon_dir, "SELECT count(*) FROM query WHERE id = ?", query) == [(0,)]
    assert rows(daemon_dir, "SELECT count(*) FROM feedback WHERE query_id = ?", query) == [(0,)]


def test_the_cloud_instead_and_private(visitor: Visitor, daemon_dir: Path) -> None:
    page = visitor.open("try")
    first = ask(page, "Calculate 21 + 21. Answer with the number only.")
    first.get_by_role("button", name="Ask the cloud instead").click()
    second = page.locator(".message.assistant").nth(1)
    second.get_by_text("asked the cloud").wait_for()
    assert second.locator(".text").first.inner_text().strip() == "42"
    (sent,) = rows(daemon_dir, "SELECT messages FROM query WHERE id = ?", id_of(second))[0]
    assert [message["role"] for message in json.loads(sent)] == ["user"]

    page.get_by_label("Private").check()
    assert page.get_by_label("Route").is_disabled()
    page.get_by_label("Question").fill("Hello")
    page.get_by_label("Question").press("Enter")
    third = page.locator(".message.assistant").nth(2)
    third.get_by_text("the query is private").wait_for()
    assert third.get_by_role("button", name="Ask the cloud instead").is_disabled()


def test_tools_and_a_schema_from_the_keyboard_alone(visitor: Visitor) -> None:
    page = visitor.open("try")
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    schema = page.get_by_label("Schema of the answer")
    schema.fill("{")
    page.get_by_label("Question").fill("How warm is it?")
    page.get_by_label("Question").press("Enter")
    page.get_by_text("The schema is not JSON").wait_for()
    schema.fill('{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}')
    answer = ask(page, "Is it warm?")
    assert isinstance(json.loads(answer.locator(".text").first.inner_text())["ok"], bool)
    assert page.get_by_role("alert").is_hidden()


def test_a_hostile_question_stays_text(visitor: Visitor) -> None:
    page = visitor.open("try")
    answer = ask(page, HOSTILE + "x" * 800, task=HOSTILE)
    query = id_of(answer)
    for view in ("live", "log", f"log/{query}"):
        visitor.open(view)
        page.locator(".question, pre.text").filter(has_text="onerror=").first.wait_for()
        assert page.locator("main img").count() == 0
        assert page.title() != "owned"
        wider = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        assert not wider, f"{view} is wider than the window"


GATE = {
    "gain": 0.21,
    "low": 0.08,
    "high": 0.33,
    "rate": 0.28,
    "clusters": {
        "sums": {
            "queries": 24,
            "joint_before": 0.23,
            "joint_after": 0.8,
            "local_before": 0.0,
            "local_after": 0.55,
            "p_offload_before": 0.3,
            "p_offload_after": 0.2,
        }
    },
}


@pytest.fixture
def journal(daemon_dir: Path, daemon: Running) -> Iterator[Journal]:
    with contextlib.closing(Journal(daemon_dir / "edge-agent.db")) as found:
        yield found


def test_rounds_and_the_one_that_runs(visitor: Visitor, journal: Journal) -> None:
    settings = {"steps": 40, "rate": 0.3}
    begin = {"until": Position(), "base": "m", "parent": "base", "settings": settings}
    number = journal.begin(**begin)
    for step in range(12):
        rising = StepRow(step, "dagrpo", 2.0, reward_local=step / 20, rate=0.3, dual=step / 10)
        journal.record(number, rising)
    journal.end(number, "rejected", "sums loses 0.1 on 24 held-out queries", gate=GATE, items=120)
    page = visitor.open("learning")
    row = page.locator(f'tr[data-round="{number}"]')
    assert "sums loses 0.1 on 24 held-out queries" in row.inner_text()
    kinds = page.get_by_role("region", name="Kinds of work")
    assert "55 %" in kinds.inner_text().replace("\u00a0", " ")
    page.get_by_role("img", name="Dual variable").wait_for()

    # This process is alive, so to the daemon its round runs, and is not the daemon's to stop.
    running_now = journal.begin(**begin)
    journal.record(running_now, StepRow(6, "dagrpo", 2.0, dual=0.5, rate=0.31))
    page.get_by_text("DA-GRPO, step 7 of 40").wait_for()
    page.get_by_role("button", name="Stop it").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    page.get_by_text("no round of this daemon is running").wait_for()
    journal.end(running_now, "interrupted")
    page.get_by_role("button", name="Start a round").wait_for()
    visitor.problems = [text for text in visitor.problems if "404" not in text]


def test_ten_thousand_rows_page_by_page(visitor: Visitor, daemon_dir: Path) -> None:
    page = visitor.open("try")
    ask(page, "A row to copy.", task="copies")
    with contextlib.closing(sqlite3.connect(daemon_dir / "edge-agent.db")) as db, db:
        multiply(db, 10_000)
    try:
        page = visitor.open("log")
        page.get_by_text("Queries 1 to 100").wait_for()
        page.get_by_label("Kind of work").select_option("copies")
        for first in (101, 201):
            page.get_by_role("button", name="Older").click()
            page.get_by_text(f"Queries {first} to").wait_for()
        assert page.locator("tbody tr").count() == 100
        page.get_by_role("button", name="Newer").click()
        page.get_by_text("Queries 101 to").wait_for()
        with page.expect_download() as started:
            page.get_by_role("button", name="Export").click()
        lines = Path(started.value.path()).read_text().splitlines()
        assert len(lines) >= 10_000
        assert json.loads(lines[-1])["query"]["prompt"] == "A row to copy."
    finally:
        with contextlib.closing(sqlite3.connect(daemon_dir / "edge-agent.db")) as db, db:
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("DELETE FROM query WHERE id LIKE 'copy%'")


def multiply(db: sqlite3.Connection, times: int) -> None:
    """Copies of the newest query, as if it had been asked `times` more."""
    (seq,) = db.execute("SELECT max(seq) FROM query").fetchone()
    (last,) = db.execute("SELECT max(seq) FROM arrival").fetchone()
    db.execute("CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
               "SELECT i + 1 FROM n WHERE i < ?) SELECT i FROM n", [times])  # fmt: skip
    db.execute("INSERT INTO arrival SELECT ? + i, 'copy' || i, 1, 1 FROM n", [last])
    for table in ("query", "decision", "response"):
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        new = {"seq": f"{last} + n.i", "id": "'copy' || n.i"}
        picked = ", ".join(new.get(column, f"t.{column}") for column in columns)
        db.execute(f"INSERT INTO {table} SELECT {picked} FROM {table} t, n WHERE t.seq = {seq}")  # noqa: S608


def test_what_another_rate_would_have_cost(visitor: Visitor) -> None:
    page = visitor.open("what-if")
    slider = page.get_by_label("largest share")
    page.locator("input[type=range]:enabled").wait_for()
    slider.focus()
    page.keyboard.press("Home")
    page.get_by_text("edge-agent budget set --rate 0", exact=True).wait_for()
    page.keyboard.press("End")
    page.get_by_text("edge-agent budget set --rate 1", exact=True).wait_for()
    page.get_by_role("img", name="Cost by τ").wait_for()


def test_the_key_is_asked_for_and_kept_in_this_tab(browser: Any, tmp_path: Path) -> None:
    with running(
        *("serve", "--port", "0", "--threads", "1", "--api-key-env", "KEYS"),
        data_dir=tmp_path,
        KEYS="right",
    ) as daemon:
        visitor = Visitor(browser, daemon.url)
        page = visitor.page
        page.goto(daemon.url)
        for key in ("wrong", "right"):
            page.get_by_role("dialog").get_by_label("API key").fill(key)
            page.get_by_role("button", name="Open").click()
        page.get_by_text("No query yet").wait_for()
        assert page.evaluate("Object.values(sessionStorage)") == ["right"]
        assert "right" not in page.evaluate("Object.values(localStorage)")
        assert all("401" in text for text in visitor.problems)
        visitor.context.close()
