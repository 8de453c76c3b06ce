"""Reading the log: tail, search, explain, export. Never writes, so it can run beside the daemon."""

import json
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_agent.log.admin import log_enabled
from edge_agent.log.database import boundary, open_database, snapshot
from edge_agent.log.rows import Row, decoded
from edge_agent.records.query import ID_PREFIXES, Reason, RecentDecision, Route

_TAIL = """
query.at, log.*, decision.wanted, decision.propensity, decision.budget, decision.audit,
response.disconnected
FROM query JOIN log USING (seq) JOIN decision USING (seq) JOIN response USING (seq)
"""
_HOLDS = (
    "SELECT seq FROM (SELECT rowid AS seq FROM query_fts WHERE query_fts MATCH ? UNION "
    "SELECT seq FROM choice WHERE id IN "
    "(SELECT rowid FROM choice_fts WHERE choice_fts MATCH ?))"
)
"""Places of the queries that hold a word."""


class LogReader:
    """Questions to the log at `path`. Any thread may ask."""

    def __init__(self, path: Path, *, enabled: bool = True) -> None:
        self.path = path
        self._seed_enabled = enabled
        self._lock = threading.Lock()
        self._db = open_database(path, read_only=True)

    def __enter__(self) -> "LogReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def enabled(self) -> bool:
        """Whether the content of queries is written down (`logs on|off`, else configuration)."""
        with self._lock, boundary(self.path):
            return log_enabled(self._db, default=self._seed_enabled)

    def explain(self, query_id: str, *, token_ids: bool = False) -> dict[str, Any] | None:
        """All that is known of one query, JSON-ready; None if it is not logged.

        Keys: `query`, `decision`, `response` (with `choices`), `feedback` and `audit` (lists), and
        `ledger` (its cloud calls). `query_id` may be a response id (chatcmpl-…, cmpl-…).
        """
        with self._lock, boundary(self.path), snapshot(self._db):
            found = self._rows("SELECT * FROM query WHERE id = ?", [bare_id(query_id)])
            return self._whole(found[0], token_ids=token_ids) if found else None

    def tail(self, limit: int = 20, *, task: str | None = None) -> list[Row]:
        """The last `limit` queries, newest last, as `page` gives them."""
        return self.page(limit, task=task)[::-1]

    def search(self, words: str, limit: int = 20) -> list[Row]:
        """The newest `limit` queries that hold every word, newest last; see `page`."""
        return self.page(limit, words=words)[::-1]

    def page(
        self,
        limit: int,
        *,
        before: int | None = None,
        ids: Sequence[str] | None = None,
        words: str | None = None,
        route: str | None = None,
        reason: str | None = None,
        task: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> list[Row]:
        """The newest `limit` queries for which all that is given holds, newest first.

        `before`: their place (`seq`) is below it, so a page begins where the last one ended.
        `words`: prompt or answers hold each of them; a phrase in double quotes must occur as such,
        words match by their stem. `since` and `until` are Unix seconds, the latter excluded.

        Rows of the view `log` with the columns `at`, `wanted`, `propensity`, `budget`, `audit` and
        `disconnected` on top, which `text.why` reads.
        """
        wanted: list[tuple[str, Any]] = [
            ("query.seq < ?", before),
            ("query.id IN (SELECT value FROM json_each(?))", None if ids is None else list(ids)),
            ("decision.route = ?", route),
            ("decision.reason = ?", reason),
            ("query.task = ?", task),
            ("query.at >= ?", since),
            ("query.at < ?", until),
        ]
        found = [(sql, value) for sql, value in wanted if value is not None]
        conditions = [sql for sql, _ in found]
        arguments = [json.dumps(v) if isinstance(v, list) else v for _, v in found]
        if words is not None:
            terms = [bit for bit in self._db.quote_fts(words).split('"')[1::2] if bit.strip()]
            if not terms:
                return []
            conditions.append(f"query.seq IN ({' INTERSECT '.join(_HOLDS for _ in terms)})")
            arguments += [f'"{term}"' for term in terms for _ in range(2)]
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        with self._lock, boundary(self.path):
            rows = self._rows(
                f"SELECT {_TAIL} {where} ORDER BY query.seq DESC LIMIT ?", [*arguments, limit]
            )
        return [decoded(row, token_ids=False) for row in rows]

    def tasks(self) -> list[str]:
        """The labels that clients gave to kinds of work, in order."""
        with self._lock, boundary(self.path):
            rows = self._rows(
                "SELECT DISTINCT task FROM query WHERE task IS NOT NULL ORDER BY task LIMIT 500"
            )
        return [row["task"] for row in rows]

    def spent_since(self, at: float, limit: int) -> list[Row]:
        """What each query since Unix time `at` was decided by and cost; the newest `limit`.

        Keys: `free` (whether the route was the policy's to choose), `route`, `adapter`,
        `p_offload`, `gain`, `prompt_tokens`, `completion_tokens`, `cost_usd`, `source`.
        """
        with self._lock, boundary(self.path):
            return self._rows(
                "SELECT query.route = 'auto' AND NOT query.private AS free, decision.route, "
                "adapter, p_offload, gain, prompt_tokens, completion_tokens, cost_usd, source "
                "FROM query JOIN decision USING (seq) JOIN response USING (seq) "
                "WHERE at >= ? ORDER BY query.seq DESC LIMIT ?",
                [at, limit],
            )

    def export(self, *, after: int = 0, page: int = 200) -> Iterator[dict[str, Any]]:
        """Every logged query, oldest first, as `explain` gives it and with all token ids.

        Holds no transaction between pages, so the daemon's log can be truncated meanwhile.
        """
        while True:
            with self._lock, boundary(self.path), snapshot(self._db):
                queries = self._rows(
                    "SELECT * FROM query WHERE seq > ? ORDER BY seq LIMIT ?", [after, page]
                )
                whole = [self._whole(query, token_ids=True) for query in queries]
            if not whole:
                return
            yield from whole
            after = queries[-1]["seq"]

    def recent_decisions(self, limit: int, adapter: str) -> list[RecentDecision]:
        """The last `limit` decisions of an adapter version that have a p_offload, newest last."""
        with self._lock, boundary(self.path):
            found = self._rows(
                "SELECT p_offload, decision.route, reason, wanted, adapter, query.route AS asked, "
                "decided_after, draft_logprob, "
                "coalesce(reason = 'budget' AND json_extract(budget, '$.rate.used') "
                "+ json_extract(budget, '$.rate.reserved') "
                ">= json_extract(budget, '$.rate.limit'), 0) AS over_rate "
                "FROM decision JOIN query USING (seq) "
                "WHERE adapter = ? AND p_offload IS NOT NULL ORDER BY decision.seq DESC LIMIT ?",
                [adapter, limit],
            )
        return [
            RecentDecision(
                p_offload=row["p_offload"],
                route=Route(row["route"]),
                reason=Reason(row["reason"]),
                wanted=Route(row["wanted"]) if row["wanted"] else None,
                adapter=row["adapter"],
                asked=Route(row["asked"]),
                over_rate=bool(row["over_rate"]),
                after=row["decided_after"] or "first_token",
                draft_logprob=row["draft_logprob"],
            )
            for row in reversed(found)
        ]

    def counts_today(self) -> dict[str, int]:
        """Logged queries since local midnight: `queries`, and by source local, cloud, fallback."""
        midnight = datetime.now().replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
        with self._lock, boundary(self.path):
            found = self._rows(
                "SELECT source, count(*) AS n FROM query JOIN response USING (seq) "
                "WHERE at >= ? GROUP BY source",
                [midnight],
            )
        counts = {"local": 0, "cloud": 0, "fallback": 0} | {
            row["source"]: row["n"] for row in found
        }
        return {"queries": sum(counts.values()), **counts}

    def summary(self) -> dict[str, Any]:
        """Number of logged queries, feedback and audits; Unix times of the first and last query."""
        with self._lock, boundary(self.path), snapshot(self._db):
            return self._rows(
                "SELECT (SELECT count(*) FROM query) AS queries, "
                "(SELECT count(*) FROM feedback) AS feedback, "
                "(SELECT count(*) FROM audit) AS audits, "
                "(SELECT min(at) FROM query) AS first_at, (SELECT max(at) FROM query) AS last_at"
            )[0]

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    def _whole(self, query: Row, *, token_ids: bool) -> dict[str, Any]:
        def of(table: str, column: str, order: str) -> list[Row]:
            sql = f"SELECT * FROM {table} WHERE {column} = ? ORDER BY {order}"  # noqa: S608
            key = query["seq"] if column == "seq" else query["id"]
            return [decoded(row, token_ids=token_ids) for row in self._rows(sql, [key])]

        return {
            "query": decoded(query, token_ids=token_ids),
            "decision": of("decision", "seq", "seq")[0],
            "response": of("response", "seq", "seq")[0]
            | {"choices": of("choice", "seq", "number")},
            "feedback": of("feedback", "query_id", "id"),
            "audit": of("audit", "query_id", "id"),
            "ledger": of("ledger", "query_id", "id"),
        }

    def _rows(self, sql: str, arguments: Sequence[Any] = ()) -> list[Row]:
        return list(self._db.query(sql, arguments))


def bare_id(response_id: str) -> str:
    """The query's ULID, from itself or from a response id."""
    for prefix in ID_PREFIXES.values():
        if response_id.startswith(prefix):
            return response_id[len(prefix) :]
    return response_id
