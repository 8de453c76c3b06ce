"""A list of solvers, each with the pattern of the question it answers.

Evaluates the arithmetic of a question, without `eval`: only numbers and operators exist.

Solvers of reasoning-gym's arithmetic and algebra: a match of the question → the answer.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

Solver = Callable[[re.Match[str]], str | None]


@dataclass
class Solvers:
    """Filled by `add`; `answer` asks each in the order they were added."""

    _patterns: list[tuple[re.Pattern[str], Solver]] = field(default_factory=list)

    def add(self, pattern: str) -> Callable[[Solver], Solver]:
        """Register the decorated function for questions in which `pattern` is found."""

        def register(solver: Solver) -> Solver:
            self._patterns.append((re.compile(pattern), solver))
            return solver

        return register

    @property
    def families(self) -> list[str]:
        """Names of the generators whose questions are known."""
        return [solver.__name__ for _, solver in self._patterns]

    def answer(self, text: str) -> str | None:
        """The answer to the last known question in `text`, or None.

        The last, because examples come before the question.
        """
        for pattern, solver in self._patterns:
            found = None
            for found in pattern.finditer(text):  # noqa: B007
                pass
            if found is None:
                continue
            try:
                answer = solver(found)
            except (ArithmeticError, ValueError, LookupError):
                continue  # it looked like one of ours, and was not
            if answer is not None:
                return answer
        return None


_MAX_CHARS = 2000
_MAX_SHIFT = 1024

Number = Any
"""int, Decimal or Fraction: whatever `number` makes; the operators are theirs."""


def _shift(by: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def shifted(value: int, count: int) -> int:
        if not 0 <= count <= _MAX_SHIFT:
            raise ValueError("shift out of range")
        return by(value, count)

    return shifted


_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.LShift: _shift(operator.lshift),
    ast.RShift: _shift(operator.rshift),
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
_SIGNS: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
}


def evaluate(
    text: str,
    number: Callable[[str], Number],
    *,
    divide: Callable[[Number, Number], Number] = operator.truediv,
    names: Mapping[str, Number] | None = None,
) -> Number:
    """The value of `text`; literals go through `number` as they are written.

    Raises ValueError for anything but arithmetic, and ArithmeticError as the numbers do.
    """
    text = " ".join(text.split())
    if len(text) > _MAX_CHARS:
        raise ValueError("too long")
    try:
        tree = ast.parse(text, mode="eval").body
        return _value(tree, text, number, {**_OPERATORS, ast.Div: divide}, names or {})
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"not arithmetic: {text}") from error


def _value(
    node: ast.expr,
    text: str,
    number: Callable[[str], Number],
    operators: Mapping[type[ast.operator], Callable[[Any, Any], Any]],
    names: Mapping[str, Number],
) -> Number:
    def value(part: ast.expr) -> Number:
        return _value(part, text, number, operators, names)

    match node:
        case ast.BinOp(left, op, right) if type(op) in operators:
            return operators[type(op)](value(left), value(right))
        case ast.UnaryOp(op, operand) if type(op) in _SIGNS:
            return _SIGNS[type(op)](value(operand))
        case ast.Constant():
            return number(ast.get_source_segment(text, node) or "")
        case ast.Name(name) if name in names:
            return names[name]
    raise ValueError(f"not arithmetic: {text}")


solvers = Solvers()
_MAX_PRIME = 10_000_000


def _integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", text)]


def _integer(text: str) -> int:
    return int(text, 0)


@solvers.add(r"arithmetic problem:\s*(?P<sum>[-+*/()\d.\s]+?)\s*=")
def chain_sum(match: re.Match[str]) -> str:
    """Also decimal_chain_sum: decimal places are kept, as in a written sum."""
    return str(evaluate(match["sum"], Decimal if "." in match["sum"] else int))


@solvers.add(r"multiplication:\s*(?P<product>[-\d*\s]+\d)")
def products(match: re.Match[str]) -> str:
    return str(evaluate(match["product"], int))


@solvers.add(
    r"(?:Calculate|What is|Solve|Compute|Evaluate:)\s+"
    r"(?P<sum>(?=[^.?=\n]*\d)[-+*/() \d]*[-+*/][-+*/() \d]*[\d)])\s*(?:[.?=](?!\d)|\n|$)"
)
def basic_arithmetic(match: re.Match[str]) -> str:
    """Division is exact where the generator divides; Python's floor elsewhere, as it does."""
    return str(evaluate(match["sum"], int, divide=operator.floordiv))


@solvers.add(r"Greatest Common Divisor \(GCD\) of these numbers: (?P<numbers>[-\d, ]+)")
def gcd(match: re.Match[str]) -> str:
    return str(math.gcd(*_integers(match["numbers"])))


@solvers.add(r"Least Common Multiple \(LCM\) of these numbers: (?P<numbers>[-\d, ]+)")
def lcm(match: re.Match[str]) -> str:
    return str(math.lcm(*_integers(match["numbers"])))


@solvers.add(
    r"Simplify the fraction (?P<open>\$?(?:\\d?frac\{)?)(?P<over>-?\d+)"
    r"(?P<middle>\}\{|/)(?P<under>\d+)(?P<close>\}?\$?)"
)
def fraction_simplification(match: re.Match[str]) -> str:
    simple = Fraction(int(match["over"]), int(match["under"]))
    over, under = simple.numerator, simple.denominator
    return f"{match['open']}{over}{match['middle']}{under}{match['close']}"


@solvers.add(
    r"(?:Solve for|value of) (?P<name>[a-z])\b[^:\n]*: (?P<left>[-+*/() \w]+?) = "
    r"(?P<right>(?:[-+*/() \d]|\b[a-z]\b)+?)(?=\s*(?:[.\nA-Z]|$))"
)
def simple_equations(match: re.Match[str]) -> str | None:
    def difference(at: int) -> Any:
        names = {match["name"]: Fraction(at)}
        return evaluate(match["left"], Fraction, names=names) - evaluate(
            match["right"], Fraction, names=names
        )

    start, slope = difference(0), difference(1) - difference(0)
    linear = difference(2) - difference(1) == slope != 0
    return str(-start / slope) if linear else None


@solvers.add(r"final hexidecimal value\.\s+(?P<bits>[-+*()\s<>&|^~0-9a-fx]+)")
def bitwise_arithmetic(match: re.Match[str]) -> str:
    return hex(evaluate(match["bits"], _integer))


@solvers.add(r"1 bits are there in the binary representation of the number (?P<number>\d+)")
def count_bits(match: re.Match[str]) -> str:
    return str(int(match["number"]).bit_count())


@solvers.add(
    r"maximum of (?P<digits>\d+) significant digits[^\n]*\n\s*(?P<sum>[-+*/()\d.\s]+?) = \?"
)
def decimal_arithmetic(match: re.Match[str]) -> str:
    with localcontext(prec=min(int(match["digits"]), 100)):
        return str(evaluate(match["sum"], Decimal))


@solvers.add(r"Compute (?P<base>-?\d+(?:\.\d+)?)\^(?P<exponent>-?\d+)\. Return")
def power_function(match: re.Match[str]) -> str:
    return str(math.pow(float(match["base"]), int(match["exponent"])))


@solvers.add(r"prime factorization of (?P<number>\d+)")
def prime_factorization(match: re.Match[str]) -> str | None:
    rest, factors, divisor = int(match["number"]), [], 2
    if rest > _MAX_PRIME**2:
        return None
    while divisor * divisor <= rest:
        while rest % divisor == 0:
            factors.append(divisor)
            rest //= divisor
        divisor += 1
    return " × ".join(map(str, [*factors, rest] if rest > 1 else factors))


@solvers.add(r"how many prime numbers there are between (?P<low>\d+) and (?P<high>\d+)")
def count_primes(match: re.Match[str]) -> str | None:
    low, high = int(match["low"]), int(match["high"])
    if high > _MAX_PRIME:
        return None
    prime = bytearray([0, 0]) + bytearray([1]) * (high - 1)
    for number in range(2, math.isqrt(high) + 1):
        if prime[number]:
            multiples = range(number * number, high + 1, number)
            prime[multiples.start :: number] = bytes(len(multiples))
    return str(sum(prime[low : high + 1]))


_BASES = {"binary": 2, "hexadecimal": 16}


@solvers.add(
    r"convert the (?P<source>binary|hexadecimal|base-\d+) number (?P<number>[0-9a-z]+) "
    r"to (?P<target>binary|hexadecimal|base-\d+)"
)
def base_conversion(match: re.Match[str]) -> str | None:
    source, target = (
        _BASES.get(match[name]) or int(match[name].removeprefix("base-"))
        for name in ("source", "target")
    )
    if not 2 <= target <= 36:
        return None
    value, digits = int(match["number"], source), ""
    while value:
        value, digit = divmod(value, target)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


@solvers.add(
    r"(?:Add|Subtract|Multiply|Divide) the complex numbers: "
    r"\((?P<a>[-+.\di ]+)\) (?P<operator>[-+×÷]) \((?P<b>[-+.\di ]+)\)"
)
def complex_arithmetic(match: re.Match[str]) -> str:
    operators = {"+": operator.add, "-": operator.sub, "×": operator.mul, "÷": operator.truediv}
    a, b = (complex(match[name].replace(" ", "").replace("i", "j")) for name in "ab")
    result = operators[match["operator"]](a, b)
    real, imaginary = round(result.real, 6), round(result.imag, 6)
    return f"{real} {'-' if imaginary < 0 else '+'} {abs(imaginary)}i"


@solvers.add(
    r"I have these dice: (?P<dice>[\dd, ]+)\. "
    r"What are the odds of rolling (?P<target>\d+) or higher"
)
def dice(match: re.Match[str]) -> str | None:
    sides = [int(side) for side in re.findall(r"1d(\d+)", match["dice"])]
    if sum(sides) > 2000:
        return None
    ways = {0: 1}
    for side in sides:
        rolled: dict[int, int] = {}
        for total, count in ways.items():
            for face in range(1, side + 1):
                rolled[total + face] = rolled.get(total + face, 0) + count
        ways = rolled
    wins = sum(count for total, count in ways.items() if total >= int(match["target"]))
    odds = Fraction(wins, math.prod(sides))
    return f"{odds.numerator}/{odds.denominator}"


@solvers.add(
    r"pick the (?P<which>largest|smallest) number of the following candidates: (?P<of>[^\n]+)"
)
def number_format(match: re.Match[str]) -> str:
    numbers = [Decimal(n.replace(",", "")) for n in re.findall(r"[-\d][\d.,e+-]*\d", match["of"])]
    return f"{(max if match['which'] == 'largest' else min)(numbers):f}"


_LEGS = {
    0: "snake, sea slug, jellyfish, flatworm, leech",
    2: "chicken, bird, human, duck",
    4: "dog, cat, cow, horse, lion, elephant, giraffe, tiger, deer, sheep",
    5: "starfish",
    6: "insect, ant, butterfly, beetle, bee, wasp, grasshopper, cricket, cockroach, "
    "praying mantis, firefly",
    8: "spider, scorpion",
    10: "crab, lobster, shrimp",
    14: "woodlouse",
}
_LEGS_OF = {animal: legs for legs, animals in _LEGS.items() for animal in animals.split(", ")}


@solvers.add(r"how many legs are there in total if you have (?P<animals>[^?\n]+)\?")
def leg_counting(match: re.Match[str]) -> str:
    """The generator's plural is always "s"."""
    total = 0
    for item in match["animals"].split(", "):
        count, animal = item.split(" ", 1)
        legs = _LEGS_OF.get(animal)
        total += int(count) * (_LEGS_OF[animal.removesuffix("s")] if legs is None else legs)
    return str(total)
