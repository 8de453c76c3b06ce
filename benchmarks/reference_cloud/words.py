"""Solvers of reasoning-gym's letters, words, lists and matrices: a match → the answer."""

import json
import re
from collections import Counter, defaultdict

from benchmarks.reference_cloud.solvers import Solvers

solvers = Solvers()
_ROWS = r"(?P<rows>-?\d+(?:[ \t]+-?\d+)*(?:\n-?\d+(?:[ \t]+-?\d+)*)*)"


def _words(text: str) -> list[str]:
    """Comma-separated words; an instruction appended to the line is not one of them."""
    return re.split(r"\.\s|\.$", text.strip(), maxsplit=1)[0].split(", ")


def _matrix(text: str) -> list[list[str]]:
    return [row.split() for row in text.splitlines()]


@solvers.add(r"Sort these numbers in (?P<order>ascending|descending) order: (?P<numbers>[-\d., ]+)")
def number_sorting(match: re.Match[str]) -> str:
    numbers = re.findall(r"-?\d+(?:\.\d+)?", match["numbers"])
    return str(sorted(numbers, key=float, reverse=match["order"] == "descending"))


@solvers.add(
    r"(?P<verb>Keep|Remove) all numbers (?P<side>larger|smaller) than (?P<limit>-?[\d.]+) "
    r"in this list: \[(?P<numbers>[^\]]*)\]"
)
def number_filtering(match: re.Match[str]) -> str:
    limit, larger, keep = float(match["limit"]), match["side"] == "larger", match["verb"] == "Keep"
    numbers = re.findall(r"-?\d+(?:\.\d+)?", match["numbers"])
    hits = [float(n) > limit if larger else float(n) < limit for n in numbers]
    return str([n for n, hit in zip(numbers, hits, strict=True) if hit is keep])


@solvers.add(
    r'How many times does the letter "(?P<letter>.)" appear in the text: "(?P<text>[^"]*)"'
)
def letter_counting(match: re.Match[str]) -> str:
    return str(match["text"].lower().count(match["letter"].lower()))


@solvers.add(r"Spell this word backward \([^)]*\): (?P<word>[^\s.]+)")
def spell_backward(match: re.Match[str]) -> str:
    return match["word"][::-1]


@solvers.add(
    r"sort these words in (?P<order>ascending|descending) order [^:\n]*"
    r"comma-separated list: (?P<words>[^\n]+)"
)
def word_sorting(match: re.Match[str]) -> str:
    return ", ".join(sorted(_words(match["words"]), reverse=match["order"] == "descending"))


@solvers.add(r"Reverse this list of words: (?P<words>[^\n]+)")
def word_sequence_reversal(match: re.Match[str]) -> str:
    return ", ".join(reversed(_words(match["words"])))


@solvers.add(r"Ransom note: (?P<note>\w+)\s+Magazine: (?P<magazine>\w+)")
def ransom_note(match: re.Match[str]) -> str:
    return str(Counter(match["note"]) <= Counter(match["magazine"]))


@solvers.add(r"following two strings are isomorphic, or False otherwise:\s+(?P<a>\S+) (?P<b>\S+)")
def isomorphic_strings(match: re.Match[str]) -> str:
    a, b = match["a"], match["b"]
    pairs = set(zip(a, b, strict=False))
    return str(len(a) == len(b) and len(pairs) == len(set(a)) == len(set(b)))


@solvers.add(r"Group the following list of words into anagrams:\s+(?P<words>\[[^\]]*\])")
def group_anagrams(match: re.Match[str]) -> str:
    groups: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for word in json.loads(match["words"]):
        groups[tuple(sorted(word))].append(word)
    return json.dumps([sorted(group) for group in groups.values()])


@solvers.add(r"make the following binary string alternating: (?P<bits>[01]+)")
def binary_alternation(match: re.Match[str]) -> str:
    """A swap mends two wrong places, so it takes half as many as there are."""
    bits = match["bits"]
    surplus = bits.count("1") - bits.count("0")
    starts = [start for start in "01" if surplus in ((0, 1) if start == "1" else (0, -1))]
    wrong = [sum((bit == start) == bool(i % 2) for i, bit in enumerate(bits)) for start in starts]
    return str(min(wrong) // 2 if wrong else -1)


@solvers.add(rf"list of elements in spiral order\?\s+{_ROWS}")
def spiral_matrix(match: re.Match[str]) -> str:
    rows, spiral = _matrix(match["rows"]), []
    while rows:
        spiral += rows[0]
        rows = [list(column) for column in zip(*rows[1:], strict=True)][::-1]
    return " ".join(spiral)


@solvers.add(rf"Rotate the matrix below by (?P<degrees>\d+) degrees clockwise:\s+{_ROWS}")
def rotate_matrix(match: re.Match[str]) -> str:
    rows = _matrix(match["rows"])
    for _ in range(int(match["degrees"]) // 90 % 4):
        rows = [list(column) for column in zip(*rows[::-1], strict=True)]
    return "\n".join(" ".join(row) for row in rows)
