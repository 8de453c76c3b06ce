"""An idle minute is used to find the fastest form of the model, and given up when somebody asks."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.agent.agent import Agent
from edge_agent.agent.status import status
from edge_agent.agent.tuning import IdleTuning
from edge_agent.config.settings import Settings
from edge_agent.learning.machine import Machine
from edge_agent.records.generation import GenerationRequest, SamplingParams
from models import catalog
from models.catalog import entry_for
from models.tuned import Tuned
from tests.edge_agent.engine.engine_harness import prompt_of, read
from tests.tiny_gguf import write_tiny_gguf

# The child itself, but it takes Q8_0 and does not mind other tests.
PICKS = """
import runpy, sys
import models.tune as tune
tune.STEADY = 1e9
tune.choose_as_exact = lambda rows: next(row for row in rows if row.name == "Q8_0")
sys.argv[0:1] = ["child"]
runpy.run_module("edge_agent.agent.tune_child", run_name="__main__")
"""
CHILD = (sys.executable, "-c", PICKS)
ENDLESS = (sys.executable, "-c", "import time; time.sleep(600)")
FAILING = (sys.executable, "-c", "import sys; sys.exit('other programs disturb the measuring')")
PROMPT = tuple(prompt_of(7, 30))


@pytest.fixture
def agent(tmp_path: Path, data_dir: Path) -> Agent:
    """On a tiny model of the user's catalog."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    catalog.add(entry_for(model, name="tiny"), data_dir)
    engine = {"threads": 1, "context": 512, "slots": 2, "tune_idle_s": 0.05}
    settings = Settings(data_dir=data_dir, model="tiny", engine=engine, train={"enabled": False})
    return Agent(settings)


@asynccontextmanager
async def tuning(agent: Agent, **how: Any) -> AsyncIterator[IdleTuning]:
    """The agent at work, with a measurement of this kind."""
    how = {"load_percent": lambda: 0.0, "look": lambda: Machine(None, None), **how}
    agent.tuning = IdleTuning(agent.settings, agent.engine, agent._serve_choice, poll_s=0.05, **how)
    await agent.start()
    try:
        yield agent.tuning
    finally:
        await agent.close(0)


async def ask(agent: Agent) -> list[int]:
    sampling = SamplingParams(temperature=0, max_tokens=4)
    (answer,) = await read(agent.engine.submit(GenerationRequest(PROMPT, sampling)))
    return answer.ids


async def measuring(found: IdleTuning) -> None:
    while found.waiting_for is not None:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)


async def over(found: IdleTuning, says: str) -> None:
    while says not in (found.waiting_for or ""):  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)


def choice(agent: Agent) -> Tuned | None:
    return Tuned.load(catalog.model_dir(agent.settings.data_dir, "tiny"))


async def test_the_choice_serves_from_the_next_batch_on(agent: Agent) -> None:
    async with tuning(agent, command=CHILD) as found:
        assert await ask(agent)
        await over(found, "a form is chosen")
        assert agent.engine.model.path.name == agent.model.path.name == "tuned-Q8_0.gguf"
        assert await ask(agent)
        assert status(agent)["model"]["form"] == "Q8_0"


async def test_what_is_chosen_stays_chosen(agent: Agent) -> None:
    async with tuning(agent, command=CHILD) as found:
        await over(found, "a form is chosen")
    again = Agent(agent.settings)
    async with tuning(again, command=ENDLESS) as found:
        await over(found, "a form is chosen")
        assert again.engine.model.path.name == "tuned-Q8_0.gguf"


async def test_who_asks_ends_it(agent: Agent) -> None:
    async with tuning(agent, command=ENDLESS) as found:
        await measuring(found)
        child = found._child
        assert child is not None
        assert await ask(agent)
        await over(found, "somebody asked")
        assert child.returncode is not None
    assert choice(agent) is None


async def test_a_disturbed_measurement_says_so_and_changes_nothing(agent: Agent) -> None:
    before = agent.model.path
    async with tuning(agent, command=FAILING) as found:
        await over(found, "disturb the measuring")
        assert status(agent)["model"]["tuning_waits_for"] == found.waiting_for
        assert agent.engine.model.path == before


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"load_percent": lambda: 90.0}, "the processor is free"),
        ({"look": lambda: Machine(False, None)}, "mains power"),
    ],
)
async def test_it_waits_for_mains_and_a_free_processor(
    agent: Agent, how: dict[str, Any], says: str
) -> None:
    async with tuning(agent, command=ENDLESS, **how) as found:
        await over(found, says)
        assert found._child is None


async def test_the_end_of_the_daemon_ends_it(agent: Agent) -> None:
    async with tuning(agent, command=ENDLESS) as found:
        await measuring(found)
        child = found._child
    assert child is not None
    assert child.returncode is not None


async def test_it_can_be_turned_off(agent: Agent) -> None:
    engine = agent.settings.engine.model_copy(update={"tune_idle_s": 0})
    agent.settings = agent.settings.model_copy(update={"engine": engine})
    async with tuning(agent, command=ENDLESS) as found:
        await over(found, "tune_idle_s is 0")


async def test_a_form_that_was_tuned_away_is_followed(agent: Agent) -> None:
    """`models tune` deletes the file that serves: it is mapped, until memory is given back."""
    async with tuning(agent, command=CHILD) as found:
        await over(found, "a form is chosen")
        tuned = agent.model.path
        folder = catalog.model_dir(agent.settings.data_dir, "tiny")
        (folder / "tuned.json").unlink()
        tuned.unlink()
        while agent.engine.model.path == tuned:  # noqa: ASYNC110 - the agent polls
            await asyncio.sleep(0.05)
        agent.engine.keep_alive(0)
        assert await ask(agent)
