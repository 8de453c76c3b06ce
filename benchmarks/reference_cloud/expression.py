"""Evaluates the arithmetic of a question, without `eval`: only numbers and operators exist."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

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
