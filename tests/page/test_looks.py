"""How it looks: nothing serious for axe in either scheme, no view wider than a phone, pictures."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.end_to_end.processes import Running
from tests.page.conftest import Visitor
from tests.page.test_paths import ask

pytestmark = pytest.mark.timeout(900)
VIEWS = ("live", "try", "learning", "log", "what-if")
PHONE = {"width": 390, "height": 844}
_LARGEST = 150_000


@pytest.fixture(scope="module")
def asked(browser: Any, daemon: Running) -> None:
    """Some queries of several kinds."""
    visitor = Visitor(browser, daemon.url)
    page = visitor.open("try")
    for question, task, route in (
        ("Calculate 17 + 25. Answer with the number only.", "sums", "cloud"),
        ("Calculate 12 * 42. Answer with the number only.", "products", "auto"),
        ("Name a river in Spain.", "geography", "auto"),
        ("Calculate 84 + 9. Answer with the number only.", "sums", "auto"),
    ):
        ask(page, question, task=task, route=route)
    visitor.context.close()


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view(
    browser: Any, daemon: Running, axe: str, scheme: str, pictures: Path | None
) -> None:
    visitor = Visitor(browser, daemon.url, color_scheme=scheme, reduced_motion="reduce")
    for view in VIEWS:
        page = visitor.open(view)
        settle(page, view)
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            (each["id"], [node["html"] for node in each["nodes"]])
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == [], f"{view}, {scheme}: {json.dumps(serious, indent=1)}"
        if pictures is not None:
            draw(page, pictures / f"{view}-{scheme}.png")
        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], view
        if pictures is not None:
            draw(page, pictures / f"{view}-{scheme}-phone.png")
        page.set_viewport_size({"width": 1280, "height": 800})
    visitor.context.close()
    assert visitor.problems == []


def settle(page: Any, view: str) -> None:
    """Wait for what the view asked of the daemon, and ask something in Try."""
    page.get_by_text("no adapter yet").wait_for()
    if view == "try":
        ask(page, "Calculate 17 + 25. Answer with the number only.", route="cloud", task="sums")
    elif view != "learning":
        marks = {"live": ".limit", "log": "tbody tr", "what-if": ".chart"}
        page.locator(marks[view]).first.wait_for()
    else:
        page.get_by_role("button", name="Start a round").wait_for()


def draw(page: Any, path: Path) -> None:
    """A picture for the documentation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.mouse.move(0, 0)
    # A page of few colours: a palette halves the file, and nobody sees it.
    Image.open(io.BytesIO(page.screenshot())).quantize(200, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    assert path.stat().st_size < _LARGEST, path
