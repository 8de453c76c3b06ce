"""Building blocks of GBNF, llama.cpp's grammar notation, for output that is JSON.

Notation: llama.cpp, grammars/README.md.
"""

import json
import re
from typing import Any

# Between tokens at most one space, or one line break with an indent: small models that may put
# any amount of white space there never stop.
SPACE = "ws"
STRING_CHARACTER = "char"

_PRIMITIVES = {
    SPACE: r'| " " | "\n" [ \t]{0,20}',
    # Escapes of surrogates are left out: half a pair is no character.
    STRING_CHARACTER: r'[^"\\\x00-\x1F\x7F] | "\\" (["\\bfnrt] | "u" '
    r"([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))",
    "string": r'"\"" char* "\""',
    "integer": '"0" | "-"? [1-9] [0-9]{0,15}',
    "number": '"-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "object": '"{" (ws pair ("," ws pair)*)? ws "}"',
    "pair": 'string ":" ws value',
    "array": '"[" (ws value ("," ws value)*)? ws "]"',
}
_WORD = re.compile(r"[a-z]+(?:-[a-z0-9]+)*")
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]')
MAX_REPETITION = 1000
"""llama.cpp refuses 2000 and more, and copies the repeated part that many times."""


class Grammar:
    """Rules under construction. Primitive rules that are used get added at the end."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._rules)

    def reserve(self, hint: str) -> str:
        """A free rule name like `hint`; define it later. So rules can refer to themselves."""
        stem = re.sub("[^a-z0-9]+", "-", hint.lower()).strip("-") or "rule"
        name, number = f"r-{stem}", 1
        while name in self._rules:
            number += 1
            name = f"r-{stem}-{number}"
        self._rules[name] = ""
        return name

    def define(self, name: str, body: str) -> str:
        """Set the body of a reserved name (or of "root"); returns the name."""
        self._rules[name] = body
        return name

    def add(self, hint: str, body: str) -> str:
        """A new rule; returns its name."""
        return self.define(self.reserve(hint), body)

    def text(self) -> str:
        """The grammar, "root" first, with every primitive that is used."""
        rules = {"root": self._rules["root"], **self._rules}
        pending = list(rules.values())
        while pending:
            for word in _WORD.findall(_QUOTED.sub(" ", pending.pop())):
                if word in _PRIMITIVES and word not in rules:
                    rules[word] = _PRIMITIVES[word]
                    pending.append(rules[word])
        return "".join(f"{name} ::= {body}\n" for name, body in rules.items())


def literal(text: str) -> str:
    """A GBNF string that matches exactly `text`."""
    escaped = "".join(_escape(c) if c in '"\\' or not c.isprintable() else c for c in text)
    return f'"{escaped}"'


def json_literal(value: Any) -> str:
    """A GBNF string that matches `value` as JSON on one line. ValueError on NaN and infinity."""
    return literal(json.dumps(value, ensure_ascii=False, allow_nan=False))


def character_class(ranges: list[tuple[str, str]], *, negated: bool = False) -> str:
    """A GBNF class of inclusive character ranges."""
    body = "".join(_escape(a) if a == b else f"{_escape(a)}-{_escape(b)}" for a, b in ranges)
    return f"[{'^' if negated else ''}{body}]"


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    code = ord(character)
    if code < 0x80 and character.isalnum():
        return character
    return f"\\x{code:02X}" if code < 0x100 else f"\\U{code:08X}"


def repeat(item: str, least: int, most: int | None) -> str:
    """`item` from `least` to `most` times (None: any number)."""
    if (least, most) == (0, None):
        return f"{item}*"
    if (least, most) == (1, None):
        return f"{item}+"
    return f"{item}{{{least},{'' if most is None else most}}}"


def separated(item: str, least: int, most: int | None) -> str:
    """`item` that many times, with commas and white space between; "" if `most` is 0."""
    if most == 0:
        return ""
    tail = repeat(f'("," ws {item})', max(least - 1, 0), None if most is None else most - 1)
    body = f"ws {item}" if most == 1 else f"ws {item} {tail}"
    return body if least else f"({body})?"


def union(alternatives: list[str]) -> str:
    """One of `alternatives`, as one grammar element."""
    unique = list(dict.fromkeys(alternatives))
    return unique[0] if len(unique) == 1 else f"({' | '.join(unique)})"
