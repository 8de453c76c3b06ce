"""The real small model learns to call a tool from a log that the daemon wrote before."""

import asyncio
import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from edge_agent.chat.answer_form import AnswerForm
from edge_agent.chat.template import ChatTemplate
from edge_agent.config.settings import Settings, TrainSettings
from edge_agent.log.store import Store
from edge_agent.records.generation import ServedModel
from models.llama.model import LlamaModel
from models.llama.vocabulary import Vocabulary
from tests.trainer.log_builder import LogBuilder
from trainer.data.answers import calls_in
from trainer.data.items import START, newest
from trainer.gate.evaluate import evaluate
from trainer.phases.step import draw
from trainer.phases.warm_start import teach
from trainer.policy.export import export
from trainer.workbench import corpus
from trainer.workbench.workbench import Workbench

ROOMS = ("hall", "attic", "cellar", "kitchen", "garage", "study", "porch", "bath")
LOOKS = ("old", "small", "dark", "blue", "cold", "front", "large", "red")
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "light",
            "parameters": {
                "type": "object",
                "properties": {"room": {"type": "string"}},
                "required": ["room"],
            },
        },
    },
)
STEPS, TOGETHER = 10, 4


@pytest.fixture
def database_of_before(smollm2: Path, database: Path) -> Path:
    """64 commands to a smart home with the cloud's calls; audits have no column for calls yet."""
    with LlamaModel(smollm2, vocab_only=True) as model, closing(Store(database)) as store:
        chat = ChatTemplate(None, Vocabulary(model))
        form = AnswerForm.of(chat, tools=TOOLS)
        commands = [(f"Light the {look} {room}!", room) for look in LOOKS for room in ROOMS]
        random.Random(1).shuffle(commands)
        for text, room in commands:
            asked: dict[str, Any] = {
                "template": chat.digest,
                "tools": TOOLS,
                "prompt_ids": form.prompt(chat, [{"role": "user", "content": text}]),
            }
            call = ("light", json.dumps({"room": room}))
            LogBuilder(store).ask(text, calls=[call], task="home", **asked)
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("ALTER TABLE audit DROP COLUMN tool_calls")
        db.execute("DELETE FROM _sqlite_migrations WHERE name = 'm011_audit_calls'")
    return database


@pytest.mark.timeout(900)
def test_the_right_call_is_learned_and_served(database_of_before: Path) -> None:
    train = TrainSettings(threads=1, max_new_tokens=12, unseen=0, seed=3)
    settings = Settings(data_dir=database_of_before.parent, train=train)
    with Workbench(settings) as bench:
        data = corpus.build(bench, since=START, until=newest(database_of_before))
        assert len(data.fresh) + len(data.held_out) == 64
        item = data.held_out[0]
        assert calls_in(item.reference) is not None
        assert item.longest_answer(12) > 12, "a whole call fits"

        (group,) = draw(bench.sampler, [item], 4, seed=1)
        outputs = [bench.engine.vocabulary.decode(r.token_ids) for r in group.rollouts]
        assert all(output.startswith("{") for output in outputs), "as the grammar has it"
        (before,) = evaluate(bench.engine, [item], bench.graders, max_tokens=12)
        assert before.reward_local == 0

        learner = bench.learner(None, lambda: None)
        learner.use_learning_rate(2e-3)
        rng = random.Random(5)
        losses = [
            teach(bench, learner, rng.sample(data.fresh, TOGETHER), lambda _: None).loss
            for _ in range(STEPS)
        ]
        assert fmean(losses[-3:]) < losses[0] / 4

        folder = bench.work / "candidate"
        learner.lora.save(folder)
        files = export(folder, bench.model.path)
        asyncio.run(bench.engine.activate(ServedModel(files["merged.gguf"], version="taught")))
        results = evaluate(bench.engine, data.held_out[:4], bench.graders, max_tokens=12)
        assert [result.reward_local for result in results].count(1) >= 3
