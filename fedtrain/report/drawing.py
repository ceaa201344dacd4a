"""How pictures of a report look, and how a figure becomes an SVG in a page or a PNG file.

A page's pictures are as wide as a phone and are only ever scaled up, so that their letters are as large as those of the
page. Their colours are names that the page's style sheet defines, once for light and once for dark.

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
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedtrain.report.numbers import printable

INK = "#1c2430"
MUTED = "#5d6775"
RULE = "#dfe3e8"
BLUE = "#0072b2"
VERMILION = "#d55e00"
TRACK = "#eef1f4"
HEAT = "#004070"
ON_LITTLE_HEAT, ON_MUCH_HEAT = "#010101", "#fefefe"
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

WIDTH = 350
"""Width of a page's picture, in its own units, of which a phone shows one as a pixel."""
LETTERS = 12.5
"""Height of its letters, in the same units."""

_NAMES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    BLUE: "blue",
    VERMILION: "vermilion",
    TRACK: "track",
    HEAT: "heat",
    ON_LITTLE_HEAT: "on-little-heat",
    ON_MUCH_HEAT: "on-much-heat",
    **{colour: f"class-{number}" for number, colour in enumerate(COLOURS)},
}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")

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


_PAGE = {
    "axes.labelsize": LETTERS,
    "figure.constrained_layout.h_pad": 0.06,
    "font.size": LETTERS,
    "legend.borderaxespad": 0.2,
    "legend.fontsize": LETTERS,
    "xtick.labelsize": LETTERS,
    "ytick.labelsize": LETTERS,
}


@contextmanager
def page_style(salt: str) -> Iterator[None]:
    """Draw as `style` does, for a page: with its letters."""
    with style(salt), matplotlib.style.context(_PAGE):
        yield


def page_figure(height: float) -> Figure:
    """Return a figure for a page, as wide as all of them and so high, in units of the page."""
    return Figure(figsize=(WIDTH / 72, height / 72))


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
    """Return the figure as an SVG element for a file of its own, in the colours of paper.

    Args:
        figure: the figure, drawn and saved within `style`.
        name: a prefix of its ids.
        label: what it shows, in words, for those who cannot see it.
    """
    svg = _element(figure, name, transparent=False)
    width, height = (f"{72 * inches:g}" for inches in figure.get_size_inches())
    svg.attrib = {"role": "img", "aria-label": label, "viewBox": f"0 0 {width} {height}", "width": width}
    return ET.tostring(svg, encoding="unicode")


def to_page(figure: Figure, name: str, title: str, description: str) -> str:
    """Return the figure as an SVG element to put into a page, in colours that the page's style sheet names.

    Args:
        figure: the figure, drawn and saved within `page_style`.
        name: a prefix that makes its ids unique in the page.
        title: what it shows, in a few words.
        description: what can be seen in it, for those who cannot see it.
    """
    svg = _element(figure, name, transparent=True)
    for element in svg.iter():
        if "style" in element.attrib:
            element.attrib["style"] = _COLOUR.sub(_variable, element.attrib["style"])
    width, height = (f"{72 * inches:g}" for inches in figure.get_size_inches())
    labels = {f"{name}-title": ("title", title), f"{name}-desc": ("desc", description)}
    svg.attrib = {"role": "img", "aria-labelledby": " ".join(labels), "viewBox": f"0 0 {width} {height}"}
    for place, (label, (tag, text)) in enumerate(labels.items()):
        element = ET.Element(tag, {"id": label})
        element.text = printable(text)
        svg.insert(place, element)
    return ET.tostring(svg, encoding="unicode")


def _element(figure: Figure, name: str, *, transparent: bool) -> ET.Element:
    """Return the figure as an element without namespaces, whose ids begin with a prefix."""
    _lay_out(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=transparent)
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
    return svg


def _lay_out(figure: Figure) -> None:
    """Place what is in a figure by the letters of an SVG, once: else saving it would draw all of it for that."""
    engine = figure.get_layout_engine()
    if engine is not None:
        FigureCanvasSVG(figure)
        figure.set_dpi(72)
        engine.execute(figure)
        with matplotlib.rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)


def _variable(colour: re.Match[str]) -> str:
    """Return a colour of the report by the name that the style sheet of a page defines; any other as it is."""
    name = _NAMES.get(colour[0])
    return colour[0] if name is None else f"var(--{name})"


def to_png(figure: Figure) -> bytes:
    """Return the figure as a PNG file, at twice the usual resolution."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()
