"""Reads GBNF to say what is wrong with it, and how much work it makes for llama.cpp.

Notation: llama.cpp, grammars/README.md.

llama.cpp keeps one stack for each way a text may go on. Parts that may be empty, one after the
other, multiply them, and nothing stops it once it computes: such grammars are refused here.
What is valid GBNF is for llama.cpp to say; this reader explains and counts.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_NESTING = 100
"""llama.cpp parses parentheses by recursion; tens of thousands overflow its stack."""
MAX_REPEAT = 2000
MAX_WAYS = 10_000
"""Stacks at one point of the text."""
MAX_CHAIN = 200
"""Stacks of parts in a row that may be empty. These come back at each character, and the work
grows with more than their square."""
_MAX_EFFORT = 500_000
_MAX_WRITTEN_OUT = 2_000_000
"""Characters of repeated literals and classes: llama.cpp copies them as often as they may come."""

_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
    |(?P<terminal>"(?:\\.|[^"\\\n])*"|\[(?:\\.|[^\]\\\n])*\]|\.|!?<[^>\n]*>)
    |(?P<define>[a-zA-Z0-9-]+)\s*::=|(?P<name>[a-zA-Z0-9-]+)
    |(?P<repeat>[*+?]|\{\s*\d+\s*(?:,\s*\d*\s*)?\})|(?P<mark>[()|])""",
    re.VERBOSE,
)


class GrammarError(ValueError):
    """The grammar is wrong, or too much work."""


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


class _Part(NamedTuple):
    """How a part of a grammar may begin."""

    empty: bool
    """It may match nothing."""
    ways: int
    """Places its first character may come from."""
    chain: int
    """The same, counting only one of several alternatives."""


_NOTHING = _Part(empty=True, ways=0, chain=0)
_NEVER = _Part(empty=False, ways=0, chain=0)
_CHARACTER = _Part(empty=False, ways=1, chain=1)


def examine(gbnf: str) -> None:
    """Raises GrammarError, with the line where there is one."""
    rules: dict[str, list[_Token]] = {}
    current: list[_Token] = []
    written_out = 0
    for token in _tokens(gbnf):
        if token.kind == "repeat" and current and current[-1].kind == "terminal":
            numbers = re.findall(r"\d+", token.text)
            written_out += len(current[-1].text) * max(map(int, numbers), default=1)
            if written_out > _MAX_WRITTEN_OUT:
                raise GrammarError(f"line {token.line}: the repetitions are too long")
        if token.kind == "define":
            current = rules.setdefault(token.text, [])
        else:
            current.append(token)
    if "root" not in rules:
        raise GrammarError("there is no rule 'root'")
    for tokens in rules.values():
        for token in tokens:
            if token.kind == "name" and token.text not in rules:
                raise GrammarError(f"line {token.line}: rule {token.text!r} is not defined")
    _Counter(rules).check()


def _tokens(gbnf: str) -> Iterator[_Token]:
    position, line, depth = 0, 1, 0
    while position < len(gbnf):
        match = _TOKEN.match(gbnf, position)
        if match is None:
            raise GrammarError(f"line {line}: cannot read {gbnf[position : position + 20]!r}")
        kind, text = str(match.lastgroup), match[str(match.lastgroup)]
        depth += {"(": 1, ")": -1}.get(text, 0)
        if depth < 0 or (kind == "define" and depth):
            raise GrammarError(f"line {line}: a parenthesis has no partner")
        if depth > MAX_NESTING:
            raise GrammarError(f"line {line}: more than {MAX_NESTING} nested parentheses")
        if kind != "skip":
            yield _Token(kind, text, line)
        line += match[0].count("\n")
        position = match.end()
    if depth:
        raise GrammarError("a parenthesis is not closed")


class _Counter:
    """Counts ways, rule by rule; a rule is counted again when one that it names has changed."""

    def __init__(self, rules: dict[str, list[_Token]]) -> None:
        self._rules = rules
        self._parts = dict.fromkeys(rules, _NEVER)
        self._used = {
            name: {token.text for token in tokens if token.kind == "name"}
            for name, tokens in rules.items()
        }

    def check(self) -> None:
        users: dict[str, set[str]] = {name: set() for name in self._rules}
        for user, names in self._used.items():
            for name in names:
                users[name].add(user)
        waiting = dict.fromkeys(self._used_first())
        effort = _MAX_EFFORT
        while waiting:
            name = next(iter(waiting))
            del waiting[name]
            tokens = self._rules[name]
            effort -= len(tokens)
            part = self._alternatives(iter(tokens))
            if part.ways > MAX_WAYS or part.chain > MAX_CHAIN or effort < 0:
                raise GrammarError(
                    f"line {tokens[0].line}: rule {name!r} can begin in too many ways "
                    "(is it left-recursive?)"
                )
            if part != self._parts[name]:
                self._parts[name] = part
                waiting.update(dict.fromkeys(users[name]))

    def _used_first(self) -> Iterator[str]:
        """Rule names, used ones before their users as far as recursion allows."""
        seen: set[str] = set()
        for start in self._rules:
            path = [(start, iter(self._used[start]))] if start not in seen else []
            seen.add(start)
            while path:
                name, rest = path[-1]
                following = next((n for n in rest if n not in seen), None)
                if following is None:
                    path.pop()
                    yield name
                else:
                    seen.add(following)
                    path.append((following, iter(self._used[following])))

    def _alternatives(self, tokens: Iterator[_Token]) -> _Part:
        """Up to the closing parenthesis or the end."""
        total, sequence = _NEVER, list[_Part]()
        for token in tokens:
            if token.text == ")" and token.kind == "mark":
                break
            if token.text == "|" and token.kind == "mark":
                total, sequence = _either(total, _sequence(sequence)), []
            elif token.kind == "repeat":
                if not sequence:
                    raise GrammarError(f"line {token.line}: {token.text} follows nothing")
                sequence.append(_repeated(sequence.pop(), token))
            elif token.kind == "mark":
                sequence.append(self._alternatives(tokens))
            elif token.kind == "name":
                sequence.append(self._parts[token.text])
            else:
                sequence.append(_NOTHING if token.text == '""' else _CHARACTER)
        return _either(total, _sequence(sequence))


def _either(first: _Part, second: _Part) -> _Part:
    return _Part(
        empty=first.empty or second.empty,
        ways=first.ways + second.ways,
        chain=max(first.chain, second.chain),
    )


def _sequence(parts: list[_Part]) -> _Part:
    ways = chain = 0
    for part in parts:
        ways += part.ways
        chain += part.chain
        if not part.empty:
            return _Part(empty=False, ways=ways, chain=chain)
    return _Part(empty=True, ways=ways, chain=chain)


def _repeated(part: _Part, token: _Token) -> _Part:
    """llama.cpp writes the part out as often as it may come."""
    if token.text in "*+?":
        return part._replace(empty=part.empty or token.text != "+")
    numbers = [int(n) for n in re.findall(r"\d+", token.text)]
    if max(numbers) >= MAX_REPEAT:
        raise GrammarError(f"line {token.line}: a part may repeat less than {MAX_REPEAT} times")
    copies = max(numbers) if part.empty else min(max(numbers), 1)
    return _Part(
        empty=part.empty or numbers[0] == 0, ways=part.ways * copies, chain=part.chain * copies
    )
