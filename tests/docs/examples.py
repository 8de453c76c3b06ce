"""The sessions that the pages show, and whether what a command printed is what its page says."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ELLIPSIS = "…"


@dataclass(frozen=True)
class Example:
    """One command of a console block, and the text that it prints."""

    page: str
    command: str
    expected: str

    def fits(self, printed: str) -> bool:
        """Whether `printed` is what the page says: … stands for any text, of any lines."""
        wanted, given = (
            "\n".join(line.rstrip() for line in text.strip().split("\n"))
            for text in (self.expected, printed)
        )
        pattern = ".*".join(re.escape(piece) for piece in wanted.split(ELLIPSIS))
        return re.fullmatch(pattern, given, re.DOTALL) is not None


def of(page: Path) -> Iterator[Example]:
    """The commands of the console blocks of `page`, in their order."""
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "console":
            continue
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = command.split("\n")
            further = 1
            while further < len(lines) and lines[further].startswith("> "):
                lines[further] = lines[further].removeprefix("> ")
                further += 1
            yield Example(page.stem, "\n".join(lines[:further]), "\n".join(lines[further:]))


def unexplained(page: Path) -> Iterator[str]:
    """The sh blocks of `page` before which no line says why the tests do not run them."""
    text = page.read_text(encoding="utf-8")
    if re.search(r"^\*No block of this page was run: .*\*$", text, re.MULTILINE):
        return
    paragraphs = re.split(r"\n\n+", text)
    for before, paragraph in pairwise(paragraphs):
        if paragraph.startswith("```sh\n") and not before.startswith("*The tests "):
            yield paragraph
