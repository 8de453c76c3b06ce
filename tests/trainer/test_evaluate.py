"""What a version is worth on held-out queries, asked as the daemon asks."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from edge_agent.config.settings import EngineSettings
from edge_agent.engine.engine import Engine
from edge_agent.records.generation import ServedModel
from tests.tiny_gguf import write_tiny_gguf
from trainer.data.items import Item
from trainer.gate.evaluate import CloudValue, evaluate
from trainer.graders import Graders

OFFLOAD = 5


def item(number: int, **fields: Any) -> Item:
    given = {
        "prompt_ids": (1, *range(20, 30 + number)),
        "reference": "42",
        "reference_source": "client",
    }
    return Item(str(number), 0.0, question="?", cluster="t", **(given | fields))


@pytest.fixture(scope="module")
def graders() -> Iterator[Graders]:
    with Graders() as graders:
        yield graders


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", tied=False)
    settings = EngineSettings(threads=1, slots=4, context=512)
    engine = Engine(ServedModel(path), settings, offload_token=OFFLOAD)
    engine.start()
    yield engine
    asyncio.run(engine.stop(0))


def test_the_clouds_answer_is_graded_where_it_can_be(graders: Graders) -> None:
    right, wrong = item(1, cloud_text="42"), item(2, cloud_text="41")
    own = item(3, cloud_text="41", reference="41", reference_source="cloud")
    never = item(4)
    cloud = CloudValue([right, wrong, own, never], graders)
    assert [cloud.of(one) for one in (right, wrong, own)] == [1.0, 0.0, 1.0]
    assert cloud.of(never) == 0.5, "its mean where it can be graded"
    assert CloudValue([own, never], graders).of(never) == 1.0


def test_results_are_in_order_and_as_the_engine_decides(engine: Engine, graders: Graders) -> None:
    items = [item(number, grader={"type": "regex", "pattern": "^"}) for number in range(20)]
    results = evaluate(engine, items, graders, max_tokens=6)
    assert [result.item for result in results] == items
    for result in results[:4]:
        group = engine.sample_groups([result.item.prompt_ids], 1, max_tokens=1)[0]
        assert result.p_offload == pytest.approx(group.p_offload, rel=1e-3)
    assert {result.reward_local for result in results} == {1.0}
    assert {result.reward_offload for result in results} == {1.0}


def test_in_a_window_the_largest_wish_to_ask_counts(engine: Engine, graders: Graders) -> None:
    items = [item(number) for number in range(6)]
    first = [r.p_offload for r in evaluate(engine, items, graders, max_tokens=6)]
    largest = [r.p_offload for r in evaluate(engine, items, graders, max_tokens=6, window=5)]
    assert all(b > a * 0.999 for a, b in zip(first, largest, strict=True))
    assert any(b > a * 1.01 for a, b in zip(first, largest, strict=True))


def test_an_answer_cut_at_the_limit_did_not_end(engine: Engine, graders: Graders) -> None:
    (cut,) = evaluate(engine, [item(1)], graders, max_tokens=1)
    assert not cut.ended
    assert cut.reward_local == 0.0
