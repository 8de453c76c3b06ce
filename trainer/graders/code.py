"""Python code against its tests."""

from edge_agent.training.grader_spec import Program, UnitTests
from trainer.graders.sandbox import Ran, run
from trainer.graders.text import fenced


def source(text: str) -> str:
    """The code in an answer: its longest fenced block, else all of it."""
    text = text.rpartition("</think>")[2]
    return max(fenced(text), key=len, default=text)


def grade(spec: UnitTests, text: str) -> float:
    """1 if all tests pass, else 0; with `partial` the share that passes."""
    code = f"{spec.prefix}\n{source(text)}" if spec.prefix else source(text)
    statements = [test for test in spec.tests if isinstance(test, str)]
    programs = [test for test in spec.tests if isinstance(test, Program)]
    if not spec.partial:
        # One process for all statements: starting Python is most of a test's time.
        together = "\n".join(statements)
        return float(
            (not statements or _passes(spec, code, together))
            and all(_prints(spec, code, program) for program in programs)
        )
    passed = sum(_passes(spec, code, test) for test in statements)
    passed += sum(_prints(spec, code, program) for program in programs)
    return passed / len(spec.tests)


def _passes(spec: UnitTests, code: str, tests: str) -> bool:
    return _run(spec, code, tests=tests).completed


def _prints(spec: UnitTests, code: str, program: Program) -> bool:
    ran = _run(spec, code, stdin=program.stdin)
    return ran.completed and _lines(ran.output) == _lines(program.stdout)


def _run(spec: UnitTests, code: str, *, tests: str | None = None, stdin: str = "") -> Ran:
    return run(code, tests=tests, stdin=stdin, timeout_s=spec.timeout_s, memory_mb=spec.memory_mb)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
