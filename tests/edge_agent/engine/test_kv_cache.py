"""The count of KV cells is exact, whatever is shared and closed in whatever order."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.engine.kv_cache import HostCache, PrefixCache, Reservations
from models.llama.cells import KvCache, Sequence, common_prefix
from models.llama.context import LlamaContext
from models.llama.model import LlamaModel
from models.llama.threads import ThreadControl


@pytest.fixture(scope="module")
def context(tiny_model: Path) -> Iterator[LlamaContext]:
    model = LlamaModel(tiny_model)
    context = LlamaContext(model, cells=256, batch=64, sequences=8, threads=ThreadControl.of(1))
    yield context
    context.close()
    model.close()


def compute(context: LlamaContext, kv: KvCache, sequence: Sequence) -> None:
    n = sequence.pending
    start = sequence.done
    code = context.decode(
        sequence.tokens[start:], range(start, start + n), [sequence.id] * n, [0] * n
    )
    assert code == 0
    kv.extend(sequence, n)


STEPS = st.lists(
    st.tuples(st.sampled_from(["fork", "extend", "close"]), st.integers(0, 7), st.integers(0, 15)),
    max_size=25,
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(STEPS)
def test_cells_are_counted_as_sets_of_cells(
    context: LlamaContext, steps: list[tuple[str, int, int]]
) -> None:
    """The model: each sequence is a list of cell numbers, each computed token a new number."""
    context.clear()
    kv = KvCache(context)
    cells: dict[Sequence, list[int]] = {}
    made = 0
    for action, which, n in steps:
        held = list(cells)
        chosen = held[which % len(held)] if held else None
        if action == "fork" and not kv.full:
            length = min(n, chosen.done) if chosen else 0
            sequence = Sequence(list(chosen.tokens[:length]) if chosen else [])
            kv.open(sequence, chosen, length)
            cells[sequence] = cells[chosen][:length] if chosen else []
        elif chosen is None:
            continue
        elif action == "extend" and 0 < n <= 256 - kv.used:
            chosen.tokens += [20 + n] * n
            compute(context, kv, chosen)
            cells[chosen] += range(made, made + n)
            made += n
        elif action == "close":
            kv.close(chosen)
            del cells[chosen]
        assert kv.used == len(set().union(*cells.values()))
        assert all(s.done == len(c) for s, c in cells.items())
        for sequence, own in cells.items():
            assert kv.cells([sequence]) == len(own)


def test_a_full_context_takes_exactly_as_many_tokens_as_are_free(context: LlamaContext) -> None:
    context.clear()
    kv = KvCache(context)
    first = Sequence([30] * 60)
    kv.open(first, None, 0)
    compute(context, kv, first)
    forks = [Sequence([30] * 40 + [31 + i] * 49) for i in range(4)]
    for fork in forks:
        kv.open(fork, first, 40)
        compute(context, kv, fork)
    assert kv.total - kv.used == 0
    assert context.decode([9], [60], [first.id], [0]) == 1
    kv.close(first)  # its first 40 cells live on in the forks
    assert kv.total - kv.used == 20
    assert context.decode([9] * 20, range(89, 109), [forks[0].id] * 20, [0] * 20) == 0


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    bound = min(len(a), len(b))
    naive = next((i for i in range(bound) if a[i] != b[i]), bound)
    assert common_prefix(a, b, bound) == naive


def test_cached_prefixes_leave_the_cells_but_for_the_newest(context: LlamaContext) -> None:
    context.clear()
    memory = Reservations(KvCache(context))
    for token in range(20, 28):
        sequence = Sequence([token] * 60)
        assert memory.reserve(sequence, 60, [], []) == 0
        compute(context, memory.kv, sequence)
        memory.retire(sequence)
        memory.tidy()
        assert memory.kv.used == 60
        assert memory.host.cells <= 128
    assert memory.kv.best_source([27] * 61) == (sequence, 60)
    assert [memory.cached([token] * 61) for token in range(20, 28)] == [0] * 5 + [60] * 3
    whole = Sequence([30] * 200)  # one alone may take more
    memory.reserve(whole, 200, [], [])
    for start in range(0, 200, 50):
        code = context.decode([30] * 50, range(start, start + 50), [whole.id] * 50, [0] * 50)
        assert code == 0
        memory.kv.extend(whole, 50)
    memory.retire(whole)
    memory.tidy()
    assert memory.kv.best_source([30] * 201) == (whole, 200)


def test_prefixes_contained_in_others_are_dropped_and_the_oldest_goes_first(
    context: LlamaContext,
) -> None:
    context.clear()
    kv = KvCache(context)
    prefixes = PrefixCache(kv, HostCache(kv, 0))

    def entry(tokens: list[int]) -> Sequence:
        sequence = Sequence(tokens)
        source, length = kv.best_source([*tokens, 0])
        kv.open(sequence, source, length)
        if sequence.pending:
            compute(context, kv, sequence)
        prefixes.add(sequence)
        return sequence

    short, other = entry([20] * 10), entry([21] * 10)
    longer = entry([20] * 15)
    assert short.id < 0
    assert kv.used == 25
    assert entry([20] * 12).id < 0
    prefixes.touch(other)
    assert prefixes.evict()
    assert longer.id < 0
    assert not prefixes.evict(keep=other)
    assert prefixes.evict()
    assert kv.used == 0
