"""Prompts of a wanted length that share no beginning: common words in random order."""

import random
import re
from dataclasses import dataclass

_WORDS = re.findall(
    r"\w+",
    """
    time year people way day man thing woman life child world school state family student group
    country problem hand part place case week company system program question work government
    number night point home water room mother area money story fact month lot right study book eye
    job word business issue side kind head house service friend father power hour game line end
    member law car city name president team minute idea kid body information back parent face
    others level office door health person art war history party result change morning reason
    research girl guy moment air teacher force education foot boy age policy music
    """,
)

Messages = list[dict[str, str]]


@dataclass
class Prompts:
    """Prompts by seed. A word is about one token; what it came to is in the answer's usage."""

    seed: int

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)  # noqa: S311

    def text(self, words: int) -> str:
        """`words` random words."""
        return " ".join(self._rng.choices(_WORDS, k=words))

    def cold(self, words: int) -> Messages:
        """A prompt that shares its beginning with no other."""
        return [_user(self.text(words))]

    def warm(self, shared: str, words: int) -> Messages:
        """The long text `shared`, then a question of its own."""
        return [{"role": "system", "content": shared}, _user(self.text(words))]

    def second_turn(self, first: str, answer: str, words: int) -> Messages:
        """The conversation that began with `first`, and its next question."""
        return [
            _user(first),
            {"role": "assistant", "content": answer},
            _user(self.text(words)),
        ]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
