"""The schema of edge-agent.db, as migrations. A migration that has shipped is never edited.

arrival ── every query, logged or not: its place in the sequence the budget's rate counts
query ──┬─ decision      one each, joined by `seq`
        ├─ response      one each
        │   └─ choice    one per choice of the answer, with the sampled token ids
        ├─ feedback      any number, joined by `query_id`
        └─ audit         any number
ledger ─── every cloud call: reserved, then settled; summed by day in budget_day
budget_limit, setting ── what `edge-agent budget set` and `logs off` keep
example ── prompts with their right answers from `edge-agent logs import`, to train on
training_round ─ training_step    what each round of training did
refused_field, overrun ── what each cloud model taught: fields it refuses, bills beyond the reserve
tool_turn ─ what a cloud said beside a tool call, for the turn that brings its result; by `seq`

Tables that full-text search indexes have an explicit INTEGER PRIMARY KEY: VACUUM renumbers
implicit rowids, and the index points at rowids.
"""

from sqlite_utils import Database, Migrations

from edge_agent.log.tables import CLOUD_LESSONS, DRAFTS, LEDGER, LOG, TOOL_TURN, TRAINING

migrations = Migrations("edge-agent")


@migrations()
def m001_log(db: Database) -> None:
    """Queries, decisions, responses, feedback, audits; the view `log`; full-text search."""
    db.executescript(LOG)
    db.table("query").enable_fts(["prompt"], create_triggers=True, tokenize="porter unicode61")
    db.table("choice").enable_fts(["text"], create_triggers=True, tokenize="porter unicode61")


@migrations()
def m002_ledger(db: Database) -> None:
    """Cloud calls and what they cost, the limits, and the settings the commands keep."""
    db.executescript(LEDGER)


@migrations()
def m003_training(db: Database) -> None:
    """Imported examples, and the rounds and steps of training."""
    db.executescript(TRAINING)


@migrations()
def m004_shift(db: Database) -> None:
    """What a round saw of changes in the stream: JSON, [] for none; NULL: nobody looked."""
    db.execute("ALTER TABLE training_round ADD COLUMN shift TEXT")


@migrations()
def m005_merges(db: Database) -> None:
    """Inserts into the full-text indexes merge seldom: the writer merges while nothing waits."""
    for index in ("query_fts", "choice_fts"):
        for option, segments in (("automerge", 16), ("crisismerge", 64)):
            db.execute(f"INSERT INTO {index} ({index}, rank) VALUES (?, ?)", [option, segments])  # noqa: S608


@migrations()
def m006_drafts(db: Database) -> None:
    """What a decision expected to gain, and the draft it was made from."""
    db.executescript(DRAFTS)


@migrations()
def m007_cloud_lessons(db: Database) -> None:
    """What the clouds taught: fields that they refuse, and bills beyond what was reserved."""
    db.executescript(CLOUD_LESSONS)


@migrations()
def m008_doors(db: Database) -> None:
    """The API that a query came by, in the view as well."""
    # The path under /v1: chat/completions, responses, messages, …; NULL: before this migration.
    db.execute("ALTER TABLE query ADD COLUMN door TEXT")
    db.executescript(_view_with_doors())


@migrations()
def m009_endings(db: Database) -> None:
    """The view says how an answer ended, and shows its tool calls where it has no text."""
    db.executescript(view_with_endings())


@migrations()
def m010_tool_turns(db: Database) -> None:
    """What a cloud said beside its tool calls (JSON, `cloud.tool_turns`), by the ids of these."""
    db.executescript(TOOL_TURN)


@migrations()
def m011_audit_calls(db: Database) -> None:
    """The tool calls of an audit, as JSON; NULL: it has none, or is from before this migration."""
    db.execute("ALTER TABLE audit ADD COLUMN tool_calls TEXT")


def _view_with_doors() -> str:
    view = DRAFTS[DRAFTS.index("DROP VIEW log;") :]
    return view.replace("    query.task,\n", "    query.door,\n    query.task,\n")


def view_with_endings() -> str:
    """SQL that makes the view `log` as it is since m009."""
    return _view_with_doors().replace(_ANSWER, _ANSWER_AND_END)


_ANSWER = """
    (SELECT substr(text, 1, 200) FROM choice WHERE choice.seq = query.seq AND number = 0) AS answer,
"""
_ANSWER_AND_END = """
    (SELECT substr(coalesce(nullif(text, ''), tool_calls, ''), 1, 200) FROM choice
     WHERE choice.seq = query.seq AND number = 0) AS answer,
    CASE WHEN response.disconnected THEN 'cancelled' ELSE coalesce(
        (SELECT finish_reason FROM choice WHERE choice.seq = query.seq AND number = 0), 'failed'
    ) END AS ended,
"""
