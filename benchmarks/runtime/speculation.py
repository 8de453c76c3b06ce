"""Work that copies and work that does not, with drafts and without, by turns; and JSON by a schema.

    edit      a file is written again with a name changed
    extract   fields of a text as JSON
    quote     sentences of a text, word by word
    prose     nothing to copy

Two daemons of the benchmark's own, `engine.speculate` auto and off; the one that is not asked is at
rest. Rates are those after the first token. An answer ends where the model ends it.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.runtime import http_load
from benchmarks.runtime.http_load import Messages, Prompts, Target
from benchmarks.runtime.latency import Plan, in_turns
from benchmarks.runtime.servers import OURS, own_daemon, temporary_data
from benchmarks.runtime.session import Session
from benchmarks.runtime.timings import Timing
from edge_agent.config.settings import Settings
from edge_agent.errors import EdgeAgentError

_MODE = "EDGE_AGENT_ENGINE_SPECULATE"
_SCHEMA = {
    "type": "object",
    "properties": {
        "story": {"type": "string"},
        "words": {"type": "array", "items": {"type": "string"}, "minItems": 64},
    },
    "required": ["story", "words"],
    "additionalProperties": False,
}
_AS_JSON: Mapping[str, Any] = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "told", "schema": _SCHEMA, "strict": True},
    }
}


def _file(rng: random.Random) -> str:
    names = rng.sample(("price", "count", "weight", "length", "score", "level"), 3)
    return "\n\n".join(
        f"def sum_of_{name}(rows):\n"
        f"    result = {rng.randrange(100)}\n"
        f"    for row in rows:\n"
        f'        if row["{name}"] > {rng.randrange(1000)}:\n'
        f'            result += row["{name}"]\n'
        f"    return result"
        for name in names
    )


def works(rng: random.Random, prompts: Prompts) -> dict[str, str]:
    """A prompt of each kind; none is asked twice."""
    people = [
        f"{name} {family} lives at {rng.randrange(1, 300)} {street} and was born in "
        f"{rng.randrange(1930, 2010)}."
        for name, family, street in zip(
            rng.sample(("Anna", "Boris", "Carla", "David", "Elena", "Frank"), 4),
            rng.sample(("Miller", "Novak", "Okafor", "Petrov", "Quinn", "Rossi"), 4),
            rng.sample(("Elm Road", "High Street", "Mill Lane", "Park Avenue"), 4),
            strict=True,
        )
    ]
    text = " ".join(people)
    return {
        "edit": "Write this file again with `rows` renamed to `items`. Only the file.\n\n"
        f"```python\n{_file(rng)}\n```",
        "extract": "Extract every person as a JSON array of objects with the keys name, address "
        f"and born. Only the JSON.\n\n{text}",
        "quote": f"Repeat this text word by word:\n\n{text}",
        "prose": f"Tell a short story about these words: {prompts.text(6)}.",
    }


def speculation(session: Session, settings: Settings, plan: Plan, *, seed: int) -> None:
    """Every kind of work, every repeat, with drafts and without."""
    rng, prompts = random.Random(seed), Prompts(seed)  # noqa: S311
    with temporary_data(settings) as first, temporary_data(settings) as second:
        modes = {_MODE: "auto"}, {_MODE: "off"}
        with (
            own_daemon(settings, first, fields=modes[0]) as auto,
            own_daemon(settings, second, fields=modes[1]) as off,
        ):
            targets = [
                replace(own.target, name=fields[_MODE], fields={})
                for own, fields in zip((auto, off), modes, strict=True)
            ]
            for target in targets:
                _ask(target, [_said(prompts.text(8))], plan)
            for repeat in range(plan.repeats):
                for kind, prompt in works(rng, prompts).items():
                    _by_turns(session, in_turns(targets, repeat), kind, prompt, plan)
                    session.step()


def steps(plan: Plan) -> int:
    """How many steps of progress `speculation` takes."""
    return plan.repeats * len(works(random.Random(0), Prompts(0)))  # noqa: S311


def _by_turns(
    session: Session, targets: Sequence[Target], kind: str, prompt: str, plan: Plan
) -> None:
    rates = {}
    for target in targets:
        session.doing(f"{kind}, drafts {target.name}")
        [timing] = _ask(target, [_said(prompt)], plan)
        rates[target.name] = _rate(timing)
        series = f"{OURS}, drafts {target.name}"
        session.figures.add(
            series, "output tok/s", rates[target.name], unit="tok/s", at=kind, better="higher"
        )
        if timing.predicted_tokens:
            share = 100 * timing.predicted_tokens / timing.completion_tokens
            session.figures.add(series, "from drafts", share, unit="%", at=kind, better="neither")
    session.figures.add(
        "drafts auto / off",
        "output tok/s",
        rates["auto"] / rates["off"],
        unit="×",
        at=kind,
        better="higher",
    )


def constrained(session: Session, target: Target, plan: Plan, *, seed: int) -> None:
    """The same prompts answered as text and as JSON by a schema, by turns; and beside each other.

    At two clients one is always free; the figure is the free one's, beside text and beside JSON.
    """
    prompts = Prompts(seed)
    free = replace(target, name="text", fields={"ignore_eos": True})
    shaped = replace(free, name="JSON", fields=_AS_JSON)
    _ask(shaped, [_said(prompts.text(8))], plan)  # its grammar is compiled
    for repeat in range(plan.repeats):
        asked = _said(f"Tell a long story about these words, as JSON: {prompts.text(12)}.")
        rates: dict[str, tuple[float, float]] = {}
        for other in in_turns((free, shaped), repeat):
            session.doing(f"{other.name}, alone and beside a client")
            [alone] = _ask(other, [asked], plan)
            both = _ask(free, [asked, _said(prompts.text(64))], plan, beside=other)
            beside = min(both, key=lambda timing: timing.prompt_tokens)
            rates[other.name] = _rate(alone), _rate(beside)
        for k, at in enumerate(("alone", "another client's, beside it")):
            for name, pair in rates.items():
                session.figures.add(
                    f"{OURS}, {name}", "output tok/s", pair[k], unit="tok/s", at=at, better="higher"
                )
            session.figures.add(
                "JSON / text",
                "output tok/s",
                rates["JSON"][k] / rates["text"][k],
                unit="×",
                at=at,
                better="higher",
            )
        session.step()


def _said(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _ask(
    target: Target, asked: Sequence[Messages], plan: Plan, *, beside: Target | None = None
) -> tuple[Timing, ...]:
    """All at once; the last one by `beside`, where that is given."""
    requests = [target.request(messages, plan.output_tokens) for messages in asked]
    if beside is not None:
        requests[-1] = beside.request(asked[-1], plan.output_tokens)
    done = http_load.run(target, requests, len(requests), timeout_s=plan.timeout_s)
    if done.errors:
        raise EdgeAgentError(f"{target.name} does not answer: {done.errors[0]}")
    return done.timings


def _rate(timing: Timing) -> float:
    if not timing.tpot_s:
        raise EdgeAgentError("the model ended an answer after one token; try another --seed")
    return 1 / timing.tpot_s
