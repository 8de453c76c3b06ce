"""What each table and column of the log means, from the comments of its own schema.

`datasette` puts it into the form that Datasette reads beside a database:
https://docs.datasette.io/en/stable/metadata.html
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from edge_agent.log import schema
from edge_agent.log import tables as definitions

TABLES = {
    "log": "One row per query: what was asked, who answered, why, and what it cost. Start here",
    "query": "What clients asked, as they sent it",
    "decision": "Where each query was sent, and all that the decision was made from",
    "response": "Who answered, how long it took and what it cost",
    "choice": "The text of each answer",
    "feedback": "What users said of an answer",
    "ledger": "Every call of the cloud: reserved before it, settled after it",
    "arrival": "Every query in order, logged or not: what the budget's rate counts",
    "example": "Prompts with their right answers from `edge-agent logs import`",
    "training_round": "Rounds of training, and what the gate said of each",
    "training_step": "Steps of a round of training",
    "setting": "What commands keep, such as `edge-agent logs off`",
}
"""Of tables whose own definition has no comment."""
_SAME_EVERYWHERE = {
    "id": "Number of the row; of a query, its ULID",
    "seq": "Place among all queries: 1, 2, 3, …; joins query, decision, response and choice",
    "query_id": "Id of the query",
    "at": "Unix seconds",
    "model": "Name of the model",
    "comment": "The user's own words",
    "correction": "What the user says the answer should have been",
    "reference": "The right answer, where the client sent it",
    "prompt_tokens": "Tokens of the prompt",
    "completion_tokens": "Tokens of the answer",
    "cached_tokens": "Tokens of the prompt that were not computed again",
    "cost_usd": "USD; NULL: the price is not known",
    "calls": "Calls of the cloud",
    "tokens": "Tokens of prompt and answer",
    "duration_s": "To the end of the answer, in seconds",
    "text": "What was answered",
    "messages": "JSON, as sent",
    "reason": "Why: one of the reasons in the documentation of decisions",
    "task": "The client's label for the kind of work",
}
_MORE = {
    "query.client": "Who asked: a digest of the API key; empty without keys",
    "query.n": "How many answers were asked for",
    "query.private": "1: the query must not leave this machine",
    "query.door": "The API that the query came by: its path, without /v1",
    "decision.p_offload": "Probability of asking the cloud that the model itself gave, in [0, 1]",
    "decision.p_first": "Largest probability of another first token, in [0, 1]",
    "decision.threshold": "What p_offload, or the draft, was held against",
    "decision.audit": "1: the cloud was asked in the background as well",
    "response.cloud_completion_tokens": "What the cloud counted; NULL: it said nothing",
    "response.cloud_cached_tokens": "What the cloud counted; NULL: it said nothing",
    "response.disconnected": "1: the client left before the end",
    "audit.cloud_model": "The model that was asked",
    "audit.tool_calls": "JSON; NULL: it has none",
    "audit.error": "Why there is no answer",
    "ledger.max_tokens": "Limit of the answer that was sent along",
    "ledger.settled_at": "Unix seconds",
    "budget_day.day": "Local calendar day, YYYY-MM-DD",
    "budget_day.nano_usd": "1e-9 USD, exact",
    "budget_limit.name": "Name of the limit, as in the configuration",
    "setting.name": "Name of the setting",
    "setting.value": "JSON",
    "training_round.ended_at": "Unix seconds; NULL: it has not ended",
    "training_round.pid": "Process that runs the round",
    "training_round.process_started": "And its creation time: a pid can come back",
    "training_round.last_example": "The newest imported example it saw (example.id)",
    "training_round.shift": "JSON: changes seen in the stream of work; NULL: nobody looked",
    "training_step.round": "Round it belongs to (training_round.id)",
    "training_step.seconds": "How long the step took",
    "training_step.loss": "Loss of the step",
    "training_step.reward_local": "Mean reward of local answers",
    "training_step.reward_offload": "Mean reward of asking the cloud",
    "training_step.grad_norm": "Norm of the gradient before clipping",
    "overrun.nano_usd": "1e-9 USD beyond the reservation",
}
_VIEW = {
    "time_utc": "When the query came, UTC",
    "prompt": "The first 200 characters of what was asked",
    "answer": "The first 200 characters of the answer, or its tool calls",
    "rating": "The latest rating, in [-1, 1]",
    "ended": "How the answer ended: stop, length, tool_calls, cancelled, failed, …",
}
_QUERIES = {
    "reasons": (
        "How often each route was taken, and why",
        "SELECT route, reason, count(*) AS queries, sum(cost_usd) AS cost_usd "
        "FROM log GROUP BY route, reason ORDER BY queries DESC",
    ),
    "days": (
        "Calls, tokens and USD of each day",
        "SELECT day, calls, tokens, nano_usd / 1e9 AS usd FROM budget_day ORDER BY day DESC",
    ),
    "kinds_of_work": (
        "How each kind of work is answered",
        "SELECT task, count(*) AS queries, avg(route = 'cloud') AS share_to_the_cloud, "
        "avg(rating) AS rating FROM log GROUP BY task ORDER BY queries DESC",
    ),
}


def columns() -> dict[str, dict[str, str]]:
    """Table or view → column → meaning."""
    found: dict[str, dict[str, str]] = {}
    for name, body in re.findall(r"CREATE TABLE (\w+) \((.*?)\n\);", _ddl(), re.DOTALL):
        lines = re.findall(r"^    ([a-z]\w*) [A-Z][^\n]*?(?:-- *([^\n]*))?$", body, re.MULTILINE)
        found[name] = {column: _meaning(name, column, said) for column, said in lines}
    for name, column, said in re.findall(
        r"ALTER TABLE (\w+) ADD COLUMN (\w+) \w+[;\"')]*(?: *-- ([^\n]*))?", _ddl()
    ):
        found[name][column] = _meaning(name, column, said)
    view = re.findall(
        r"^    (?:.* AS )?(?:\w+\.)?(\w+),?$", schema.view_with_endings(), re.MULTILINE
    )
    parts = ("query", "decision", "response")
    found["log"] = {
        column: _VIEW.get(column) or next(found[p][column] for p in parts if column in found[p])
        for column in view
    }
    return found


def tables() -> dict[str, str]:
    """Table or view → what it holds."""
    said = dict(re.findall(r"CREATE TABLE (\w+) \( *-- ([^\n]*)", _ddl()))
    return {name: TABLES.get(name) or said[name] for name in columns()}


def datasette(name: str) -> Mapping[str, Any]:
    """Metadata for the database file `name`, without its suffix."""
    meanings = columns()
    described = {
        table: {"description": text, "columns": meanings[table]} for table, text in tables().items()
    }
    described["log"] |= {"sort_desc": "seq"}
    queries = {key: {"title": title, "sql": sql} for key, (title, sql) in _QUERIES.items()}
    return {
        "title": "edge-agent",
        "description": "What was asked, who answered, why, and what it cost",
        "databases": {name: {"tables": described, "queries": queries}},
    }


def _ddl() -> str:
    return inspect.getsource(definitions) + inspect.getsource(schema)


def _meaning(table: str, column: str, said: str) -> str:
    """The schema's own comment; what stands for every column of that name; what is added here."""
    text = said or _MORE.get(f"{table}.{column}") or _SAME_EVERYWHERE.get(column, "")
    return text.strip()
