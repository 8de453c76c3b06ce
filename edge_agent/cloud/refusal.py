"""Which field of a request a cloud refuses, read from the words of its refusal. Pure functions.

The shapes, and who sends them:

    {"error": {"param": "temperature", "code": "unsupported_value"}}       OpenAI, Azure
    {"detail": [{"loc": ["body", "seed"], "type": "extra_forbidden"}]}     FastAPI, Mistral
    {"message": "[{'type': 'extra_forbidden', 'loc': ('body', 'store')}]"} vLLM
    {"error": {"message": "Unrecognized request argument supplied: n"}}    Azure, and gateways
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_QUOTED = re.compile(r"""[`'"“]([a-z_]+(?:(?:\.|\[\d*\]\.?)[a-z_]*)*)[`'"”]""")
_TUPLE = re.compile(r"""['"]loc['"]: *[(\[]([^)\]]*)[)\]]""")
_SUPPLIED = re.compile(r"arguments? supplied: *([a-z_, ]+)")
_WORD = re.compile(r"[a-z]+(?:_[a-z]+)*")
_PLAIN = frozenset({"temperature", "logprobs"})
"""Names that a sentence has no other meaning for; as have those with an underscore."""
_ABOUT_THE_FIELD = re.compile(
    r"unsupported|not support|n't support|unrecogni[sz]ed|unknown|unexpected|extra|not permitted|"
    r"not allowed|forbidden|deprecated|only the default|does not exist|not available|incompatible",
    re.IGNORECASE,
)
_ABOUT_THE_QUERY = re.compile(
    r"context[ _]length|context window|maximum context|too long|too many tokens|"
    r"(?:request|payload|entity|body|prompt|input) (?:is )?too large|"
    r"content[ _](?:policy|management|filter)|safety system|moderation",
    re.IGNORECASE,
)
Path = tuple[str, ...]


def refused_fields(said: str, payload: Mapping[str, Any]) -> list[Path]:
    """Fields of `payload` that the refusal `said` names, as paths without places in lists."""
    found: list[Path] = []
    for names in _named(said):
        path = _find(payload, names)
        if path is not None and path not in found:
            found.append(path)
    return found


def is_about_the_field(said: str) -> bool:
    """Whether it is refused whatever its value, so that it pays to remember."""
    return _ABOUT_THE_FIELD.search(said) is not None


def is_about_the_query(said: str) -> bool:
    """Whether this one query is too long or not wanted; another one may be welcome."""
    return _ABOUT_THE_QUERY.search(said) is not None


def _named(said: str) -> Iterator[Path]:
    """The most certain form that there is, and no less certain one beside it."""
    try:
        objects = list(_objects(json.loads(said)))
    except (ValueError, RecursionError):
        objects = []
    texts = [text for o in objects for text in o.values() if isinstance(text, str)] or [said]
    exact = [path for o in objects for path in _exact(o)]
    for text in texts:
        exact += [_path(re.findall(r"\w+", place)) for place in _TUPLE.findall(text)]
    if exact:
        yield from exact
        return
    for text in texts:
        quoted = [_path(re.findall(r"[a-z_]+", name)) for name in _QUOTED.findall(text)]
        supplied = [_path([n]) for names in _SUPPLIED.findall(text) for n in _WORD.findall(names)]
        bare = [_path([w]) for w in _WORD.findall(text) if "_" in w or w in _PLAIN]
        yield from (*quoted, *supplied, *bare)


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in `value`, also those in a text that is JSON itself."""
    if isinstance(value, str) and value[:1] in "{[":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _exact(found: Mapping[str, Any]) -> Iterator[Path]:
    if isinstance(found.get("param"), str) and found["param"]:
        yield _path(re.findall(r"\w+", found["param"]))
    if isinstance(found.get("loc"), list):
        yield _path([str(part) for part in found["loc"]])


def _path(parts: list[str]) -> Path:
    """Without places in lists."""
    return tuple(part for part in parts if not part.isdecimal())


def _find(value: Any, names: Path) -> Path | None:
    """Those of `names` that lead into `value`, the last one included; None if they do not.

    FastAPI puts "body" in front, and between them the names of types that it tried.
    """
    if isinstance(value, list):
        found = (_find(item, names) for item in value)
        return next((path for path in found if path is not None), None)
    if not isinstance(value, Mapping):
        return None
    at = next((at for at, name in enumerate(names) if name in value), None)
    if at is None:
        return None
    name, rest = names[at], names[at + 1 :]
    if not rest:
        return (name,)
    inner = _find(value[name], rest)
    return None if inner is None else (name, *inner)
