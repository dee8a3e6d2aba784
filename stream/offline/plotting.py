"""Figures by matplotlib, without a screen: as PNG files, or as SVG in a page."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure

# Okabe & Ito 2008: told apart by people of every colour vision, after grey.
COLOURS = ("#888888", "#e69f00", "#8f7a00", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")


def dashes(i: int) -> str:
    """How the `i`-th line is drawn: dashed where COLOURS begin again."""
    return ("-", "--")[i // len(COLOURS) % 2]


def figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches. Raises ValueError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(
            "pictures need matplotlib, which is not installed; "
            "run pip install -e '.[evaluate]' in rankloop's checkout"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def save_png(drawn: "Figure", path: Path) -> None:
    """Write the picture, whatever the file is called."""
    drawn.savefig(path, dpi=120, format="png")


def data_uri(drawn: "Figure") -> str:
    """The picture as an SVG that an <img> holds: nothing is fetched, and no script in it runs."""
    from matplotlib import rc_context

    out = BytesIO()
    with rc_context({"svg.hashsalt": "rankloop", "svg.fonttype": "path"}):
        drawn.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    return "data:image/svg+xml;base64," + b64encode(out.getvalue()).decode()
