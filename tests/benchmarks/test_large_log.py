"""The log that `benchmark log` makes is one that the daemon and the trainer can use."""

import random
import sqlite3
from pathlib import Path

from benchmarks.runtime.log_size import fill
from edge_agent.config.settings import Settings
from edge_agent.learning.journal import Position
from edge_agent.log.reader import LogReader
from trainer.data import items


def test_every_query_is_there_whole_and_can_be_trained_on(tmp_path: Path):
    settings = Settings(data_dir=tmp_path)
    fill(settings, 2345, random.Random(0), template="it")
    db = sqlite3.connect(settings.database)
    for table in ("arrival", "query", "decision", "response", "choice", "log"):
        counted = db.execute(f"SELECT count(*), max(seq) FROM {table}")  # noqa: S608
        assert counted.fetchone() == (2345, 2345), table
    word = db.execute("SELECT prompt FROM query WHERE seq = 2345").fetchone()[0].split()[0]
    found = db.execute("SELECT count(*) FROM query_fts WHERE query_fts MATCH ?", [word])
    assert found.fetchone()[0] > 2
    (last,) = db.execute("SELECT id FROM query WHERE seq = 2345").fetchone()
    db.close()
    explained = LogReader(settings.database, enabled=True).explain(last)
    assert explained is not None
    loaded = items.load(
        settings.database, template="it", render=lambda _: (), until=Position(2345, 0)
    )
    assert len(loaded.items) == 2345
