"""DA-GRPO against hand-worked groups and an enumerated reference; every mutant must be caught."""

import ast
import copy
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.trainer.dagrpo_checks import CHECKS
from trainer import dagrpo

SOURCE = Path(inspect.getfile(dagrpo)).read_text(encoding="utf-8")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_dagrpo(check: Callable[[ModuleType], None]) -> None:
    check(dagrpo)


def test_the_algorithm_stays_readable() -> None:
    assert len(SOURCE.splitlines()) <= 120


def _mutations(node: ast.AST) -> Iterator[ast.expr]:
    """Wrong versions of one expression: flipped signs, dropped terms and calls, min for max."""
    match node:
        case ast.BinOp(left, op, right):
            swap = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
            yield ast.BinOp(left, swap[type(op)](), right)
            yield left
            yield right
        case ast.UnaryOp(ast.USub(), operand) if not isinstance(operand, ast.Constant):
            yield operand
        case ast.Call(ast.Attribute(inner, "detach" | "exp" | "clamp")):
            yield inner
        case ast.Call(ast.Attribute(inner, "mean"), arguments, keywords):
            yield ast.Call(ast.Attribute(inner, "sum", ast.Load()), arguments, keywords)
        case ast.Call(ast.Attribute(ast.Name("torch") as module, "min"), arguments, keywords):
            yield ast.Call(ast.Attribute(module, "max", ast.Load()), arguments, keywords)
        case ast.Call(ast.Name("max" | "min" as name), arguments):
            other = {"max": "min", "min": "max"}[name]
            yield ast.Call(ast.Name(other, ast.Load()), arguments, [])
            yield from arguments


def _mutants() -> Iterator[tuple[str, ast.Module]]:
    tree = ast.parse(SOURCE)
    places = [
        (number, field, index)
        for number, parent in enumerate(ast.walk(tree))
        for field, value in ast.iter_fields(parent)
        for index in (range(len(value)) if isinstance(value, list) else (None,))
        if not isinstance(parent, ast.AnnAssign | ast.arg)
        and field not in ("annotation", "returns")
    ]
    for number, field, index in places:
        parent = list(ast.walk(tree))[number]
        value = getattr(parent, field)
        node = value if index is None else value[index]
        if not isinstance(node, ast.expr):
            continue
        for wrong in _mutations(node):
            mutant = copy.deepcopy(tree)
            target = list(ast.walk(mutant))[number]
            if index is None:
                setattr(target, field, wrong)
            else:
                getattr(target, field)[index] = wrong
            name = f"line {node.lineno}: {ast.unparse(node)} -> {ast.unparse(wrong)}"
            yield name, ast.fix_missing_locations(mutant)


def _caught(mutant: ast.Module) -> bool:
    module = ModuleType("mutant")
    try:
        exec(compile(mutant, "mutant", "exec"), module.__dict__)  # noqa: S102
        for check in CHECKS:
            check(module)
    except Exception:  # a mutant that crashes is caught as well
        return True
    return False


def test_every_mutant_is_caught() -> None:
    mutants = list(_mutants())
    assert len(mutants) > 100
    assert not _caught(ast.parse(SOURCE))
    assert [name for name, mutant in mutants if not _caught(mutant)] == []
