"""Queries and answers as the log gets them, without a model: made up, of ordinary size.

What a large log costs: writing one more query, and reading what a round trains on.

insert, one at a time   a query handed to the log, until its row is committed; mean
insert, together        a thousand at once: the writer commits what waits in one transaction
trainer sampling        `corpus.build`: the log's newest thousand queries as fresh items, and of
                        all the others at most ten thousand, to replay
sampling, a query       the same for each query read: a log of a thousand has none to replay

Before it is measured a log has rested: its writer has merged the search index.
"""

import random
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ulid import ULID

from benchmarks.runtime.http_load import Prompts
from benchmarks.runtime.servers import temporary_data
from benchmarks.runtime.session import Output, session
from edge_agent.config.settings import Settings
from edge_agent.errors import EdgeAgentError
from edge_agent.log.database import immediate, open_database
from edge_agent.log.store import Store
from edge_agent.log.writer import tidy
from edge_agent.records.generation import SamplingParams
from edge_agent.records.query import Decision, Outcome, Query, Reason, Route, Source, Usage

if TYPE_CHECKING:
    from trainer.workbench.workbench import Workbench

PROMPT_TOKENS, ANSWER_TOKENS = 48, 16
TEMPLATE = "benchmark"


def example_query(rng: random.Random, *, template: str = TEMPLATE) -> Query:
    """A chat query with a reference, so that it can be trained on."""
    text = Prompts(rng.randrange(2**31)).text(PROMPT_TOKENS - 16)
    messages = ({"role": "user", "content": text},)
    return Query(
        id=str(ULID()),
        at=time.time(),
        model="edge",
        prompt_ids=tuple(rng.randrange(1000, 40_000) for _ in range(PROMPT_TOKENS)),
        template=template,
        messages=messages,
        body={"model": "edge", "messages": messages, "max_tokens": 64},
        sampling=SamplingParams(max_tokens=64),
        task=f"task-{rng.randrange(4)}",
        reference=str(rng.randrange(1000)),
    )


def example_response(rng: random.Random) -> tuple[Decision, Outcome]:
    """A local answer."""
    decision = Decision(Route.LOCAL, Reason.THRESHOLD, p_offload=rng.random(), p_first=0.1)
    outcome = Outcome(
        source=Source.LOCAL,
        usage=Usage(PROMPT_TOKENS, ANSWER_TOKENS),
        texts=(Prompts(rng.randrange(2**31)).text(ANSWER_TOKENS),),
        finish_reasons=("stop",),
        token_ids=(tuple(rng.randrange(1000, 40_000) for _ in range(ANSWER_TOKENS)),),
        ttft_s=0.1,
        duration_s=0.5,
    )
    return decision, outcome


_SEED_ROWS = 1000
_ONE_BY_ONE = 200
_TABLES = ("arrival", "query", "decision", "response", "choice")
_IDS = {"arrival": "query_id", "query": "id"}


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of the log, smallest first."""

    sizes: tuple[int, ...] = (1_000, 1_000_000)
    repeats: int = 3


def run(plan: Plan, settings: Settings, *, seed: int, output: Output) -> None:
    """Measure and write. Raises EdgeAgentError: torch is missing, or the disk is full."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise EdgeAgentError(
            "what the trainer reads is measured too, which needs torch: "
            "pip install 'edge-agent[train]'"
        ) from error
    from trainer.workbench.workbench import Workbench

    with session("log", asdict(plan), seed=seed, output=output) as running:
        running.expect(len(plan.sizes) * (1 + plan.repeats))
        for size in plan.sizes:
            with temporary_data(settings) as folder:
                mine = settings.model_copy(update={"data_dir": folder})
                with Workbench(mine) as bench:
                    running.doing(f"writing {size:,} queries")
                    rng = random.Random(seed)  # noqa: S311
                    fill(mine, size, rng, template=bench.chat.digest)
                    running.settings[f"bytes of {size}"] = mine.database.stat().st_size
                    running.step()
                    for _ in range(plan.repeats):
                        running.doing(f"{size:,} queries")
                        costs = _insert(mine, rng) | _sample(bench, size)
                        for name, seconds in costs.items():
                            at = f"{size:,} queries"
                            running.figures.add("log", name, 1000 * seconds, unit="ms", at=at)
                        running.step()
        small, large = plan.sizes[0], plan.sizes[-1]
        found = {figure.key: figure for figure in running.figures.done()}
        for name in dict.fromkeys(metric for _, metric, _ in found):
            ratio = (
                found["log", name, f"{large:,} queries"].median
                / found["log", name, f"{small:,} queries"].median
            )
            series = f"{large:,} queries / {small:,} queries"
            running.figures.add(series, name, ratio, unit="×")


def fill(settings: Settings, size: int, rng: random.Random, *, template: str) -> None:
    """A log of `size` queries: a thousand are written as the daemon does, the rest copied."""
    store = Store(settings.database)
    try:
        _save(store, rng, min(size, _SEED_ROWS), template)
    finally:
        store.close()
    db = open_database(settings.database)
    try:
        done = min(size, _SEED_ROWS)
        while done < size:
            more = min(done, size - done, 50_000)
            with immediate(db):
                for table in _TABLES:
                    columns = [column.name for column in db.table(table).columns]
                    kept = [name for name in columns if (table, name) != ("choice", "id")]
                    values = [_copied(table, name) for name in kept]
                    db.execute(
                        f"INSERT INTO {table} ({', '.join(kept)}) "  # noqa: S608
                        f"SELECT {', '.join(values)} FROM {table} WHERE seq <= :more ORDER BY seq",
                        {"shift": done, "more": more},
                    )
            done += more
        while tidy(db):
            pass
    finally:
        db.close()


def _copied(table: str, column: str) -> str:
    if column == "seq":
        return "seq + :shift"
    if _IDS.get(table) == column:
        return "printf('%026d', seq + :shift)"
    return f'"{column}"'


def _save(store: Store, rng: random.Random, count: int, template: str) -> None:
    waiting = []
    for _ in range(count):
        decision, outcome = example_response(rng)
        query = example_query(rng, template=template)
        waiting.append(store.save(query, decision, outcome))
    for future in waiting:
        future.result()


def _insert(settings: Settings, rng: random.Random) -> dict[str, float]:
    """Seconds for each query, by how they come. Their template is no model's: not trained on."""
    store = Store(settings.database)
    try:
        rows = [(example_query(rng), *example_response(rng)) for _ in range(_SEED_ROWS)]
        began = time.perf_counter()
        for row in rows[:_ONE_BY_ONE]:
            store.save(*row).result()
        alone = (time.perf_counter() - began) / _ONE_BY_ONE
        began = time.perf_counter()
        rest = [store.save(*row) for row in rows[_ONE_BY_ONE:]]
        for future in rest:
            future.result()
        together = (time.perf_counter() - began) / len(rest)
    finally:
        store.close()
    return {"insert, one at a time": alone, "insert, together": together}


def _sample(bench: "Workbench", size: int) -> dict[str, float]:
    """Seconds to read a round's data, in all and for each query; the last thousand are new."""
    from edge_agent.learning.journal import Position
    from trainer.data import items
    from trainer.workbench import corpus

    since, until = Position(max(0, size - _SEED_ROWS)), Position(size)
    began = time.perf_counter()
    corpus.build(bench, since=since, until=until)
    seconds = time.perf_counter() - began
    read = until.seq - since.seq + min(since.seq, items.MOST_READ)
    return {"trainer sampling": seconds, "sampling, a query": seconds / read}
