"""What the memory benchmark sends before it reads a server's memory."""

from benchmarks.runtime import servers
from benchmarks.runtime.memory_command import _load
from tests.benchmarks.scripted_openai import Script, scripted


def test_every_request_of_every_wave_has_a_prompt_of_its_own() -> None:
    script = Script()
    with scripted(script) as url:
        target = servers.find(url)
        before = len(script.bodies)
        _load(target, 2, 3, seed=0)
    prompts = [str(body["messages"]) for body in script.bodies[before:]]
    assert len(prompts) == len(set(prompts)) == 6
