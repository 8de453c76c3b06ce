"""How Sphinx builds the documentation: `make docs`. Nothing it shows comes from another host."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

import reference  # noqa: E402

reference.write()

project = "edge-agent"
release = importlib.metadata.version("edge-agent")
copyright = "the authors of edge-agent, Apache-2.0"
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
exclude_patterns = ["grafana", "datasette", "containers"]
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # text in quotes over several lines of a session
html_theme = "furo"
html_title = f"edge-agent {release}"
html_show_sphinx = False
html_math_renderer = "mathml"


def _inline(writer: Any, node: Any) -> None:
    _raw(writer, node, "inline")


def _block(writer: Any, node: Any) -> None:
    _raw(writer, node, "block")


def _raw(writer: Any, node: Any, display: str) -> None:
    from docutils.nodes import SkipNode

    writer.body.append(convert(node.astext(), display=display))
    raise SkipNode


def setup(app: Any) -> None:
    """Equations become MathML, which browsers draw without a script."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
