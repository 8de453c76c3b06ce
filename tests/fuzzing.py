"""Few and the same examples in `make test`; many and new ones where FUZZ_EXAMPLES says so."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def examples(usual: int) -> settings:
    """Hypothesis settings with `usual` examples, or FUZZ_EXAMPLES of them."""
    return settings(
        max_examples=int(os.environ.get("FUZZ_EXAMPLES", usual)),
        deadline=None,
        derandomize="FUZZ_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
"""NUL and lone surrogates too."""

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def harmed(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` cut, zeroed, with bits flipped, or with bytes put in."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(found) - 1, 0)))
        how = draw(st.sampled_from(["cut", "zero", "flip", "insert"]))
        if how == "cut":
            del found[place:]
        elif how == "zero":
            end = min(len(found), place + draw(st.integers(1, 64)))
            found[place:end] = bytes(end - place)
        elif how == "flip" and found:
            found[place] ^= 1 << draw(st.integers(0, 7))
        else:
            found[place:place] = draw(st.binary(min_size=1, max_size=8))
    return bytes(found)
