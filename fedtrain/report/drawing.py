"""How pictures of a report look, and how a figure becomes an SVG in a page or a PNG file.

Only matplotlib's object API is used: a `Figure` knows no window and no global list of figures.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree as ET

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#1c2430"
MUTED = "#5d6775"
RULE = "#dfe3e8"
BLUE = "#0072b2"
VERMILION = "#d55e00"
# Paul Tol's "muted" scheme: distinct in every common form of colour blindness.
COLOURS = (
    "#332288",
    "#88ccee",
    "#44aa99",
    "#117733",
    "#999933",
    "#ddcc77",
    "#cc6677",
    "#882255",
    "#aa4499",
    "#bbbbbb",
)

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"
_IDS = re.compile(r"(?<=url\(#)[^)]+|(?<=^#).+")

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
}


@contextmanager
def style(salt: str) -> Iterator[None]:
    """Draw in the report's style, whatever the user's matplotlib settings are. The same salt gives the same ids."""
    with matplotlib.style.context(["default", _STYLE | {"svg.hashsalt": salt}]), warnings.catch_warnings():
        # The page's font has the glyphs that the font used for measuring lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def plain_axes(figure: Figure, x: str, y: str) -> Axes:
    """Return the only axes of a figure, labelled, with whole numbers along x."""
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return axes


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Return the figure as an SVG element to put into a page.

    Args:
        figure: the figure, drawn and saved within `style`.
        name: a prefix that makes its ids unique in the page.
        label: what it shows, in words, for those who cannot see it.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = ET.fromstring(buffer.getvalue())  # noqa: S314 - matplotlib wrote it a line above
    for parent in list(svg.iter()):
        for child in list(parent):
            if child.tag in {f"{_SVG}metadata", f"{_SVG}style"}:
                parent.remove(child)
    referenced = {name for element in svg.iter() for value in element.attrib.values() for name in _IDS.findall(value)}
    for element in svg.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = {
            key.removeprefix(_XLINK): _IDS.sub(rf"{name}-\g<0>", value)
            for key, value in element.attrib.items()
            if key != "id" or value in referenced
        }
        if "id" in element.attrib:
            element.attrib["id"] = f"{name}-{element.attrib['id']}"
    width, height = (f"{72 * inches:g}" for inches in figure.get_size_inches())
    svg.attrib = {"role": "img", "aria-label": label, "viewBox": f"0 0 {width} {height}", "width": width}
    return ET.tostring(svg, encoding="unicode")


def to_png(figure: Figure) -> bytes:
    """Return the figure as a PNG file, at twice the usual resolution."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()
