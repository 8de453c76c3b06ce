"""Sentences, and streams of questions of several kinds."""

import random

SENTENCES = (
    "What is 12 + 30?",
    "The cat sits on the mat.",
    "Write a Python function that reverses a linked list.",
    "How long does sourdough have to rise, and at what temperature?",
    "¿Dónde está la biblioteca? 図書館 🙂",
    " ",
    "A long text that has to be cut: " + "the quick brown fox jumps over the lazy dog " * 60,
)

RELATED = [
    (
        "Yeast turns the sugar in the flour into gas, which makes the dough rise.",
        "Bread dough rises because yeast ferments sugars and gives off carbon dioxide.",
        "The stock market fell sharply after the interest rate decision.",
    ),
    (
        "Restart the router and wait a minute before you connect again.",
        "Turn the router off and on, then reconnect after about sixty seconds.",
        "A haiku has three lines of five, seven and five syllables.",
    ),
]


def questions(kind: str, count: int, seed: int = 0) -> list[str]:
    """`count` questions of one kind that differ in numbers and words."""
    rng = random.Random(seed)
    words = ["apple", "window", "garden", "music", "river", "stone", "candle", "forest"]

    def one() -> str:
        a, b = rng.randrange(2, 99), rng.randrange(2, 99)
        picked = rng.sample(words, 3)
        return {
            "sums": f"What is {a} + {b}? Answer with the number.",
            "spelling": f"Spell this word backward: {picked[0]}",
            "sorting": f"Sort these words alphabetically: {', '.join(picked)}",
            "divisors": f"Find the greatest common divisor of {a} and {b}.",
        }[kind]

    return [one() for _ in range(count)]
