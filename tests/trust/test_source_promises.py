"""What the source itself promises: read as a syntax tree, so that no spelling hides."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("models", "edge_agent", "server", "trainer", "benchmarks")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
UNPICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNPICKLING_CALLS = {"torch.load", "numpy.load", "np.load", "yaml.load", "pandas.read_pickle"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}


def tree(path: Path) -> Iterator[ast.AST]:
    yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def imports(path: Path) -> set[str]:
    """Top-level names of every module imported, inside functions too."""
    found = set()
    for node in tree(path):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def calls(path: Path) -> set[str]:
    """Dotted names of what is called."""
    return {ast.unparse(node.func) for node in tree(path) if isinstance(node, ast.Call)}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_unpickled_and_no_text_is_run(path: Path) -> None:
    assert not imports(path) & UNPICKLES
    called = calls(path)
    assert not called & (UNPICKLING_CALLS | SHELLS)
    if name_of(path) != "trainer/graders/sandbox_child.py":
        assert not called & RUNS_TEXT
    shells = [
        node
        for node in tree(path)
        if isinstance(node, ast.keyword)
        and node.arg in {"shell", "trust_remote_code"}
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert shells == []


def test_only_the_cloud_client_speaks_http_for_the_agent() -> None:
    found = {
        name_of(path)
        for path in SOURCES
        if imports(path) & {"httpx", "requests", "aiohttp", "urllib3"}
        and not name_of(path).startswith("benchmarks/")
    }
    assert found == {"edge_agent/cloud/transport.py"}


def test_certificates_are_always_verified() -> None:
    keywords = [
        (name_of(path), ast.unparse(node))
        for path in SOURCES
        for node in tree(path)
        if isinstance(node, ast.keyword) and node.arg in {"verify", "check_hostname"}
    ]
    assert keywords == []


def test_these_tests_would_see_it(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text("def f():\n    import pickle as p\n    return torch.load('x'), eval('1')\n")
    assert imports(sample) & UNPICKLES
    assert calls(sample) >= {"torch.load", "eval"}
