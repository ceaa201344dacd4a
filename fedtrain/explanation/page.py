"""The page of an explanation: it stands alone, without scripts and requests, and shows the records that are explained.

Colours are those of a report, for light and dark. What a colour says, words or a line say too.
"""

import io
from base64 import b64encode
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from fedtrain.explanation.found import TOLERANCE, Attribution, Example, Explanation
from fedtrain.report.numbers import count, short
from fedtrain.report.pages import page_environment

_LARGEST = 256  # pixels of a side that is shown
_SHOWN = 300  # parts of a text
_STRONGEST = 5  # parts or features in a row of words
_COLUMNS = 30  # of a table

_FOR, _AGAINST = (0, 114, 178), (213, 94, 0)  # distinct in every common form of colour blindness
_WHERE: Final = (
    ("upper left", "top", "upper right"),
    ("left", "middle", "right"),
    ("lower left", "bottom", "lower right"),
)
_TITLES: Final = {"integrated gradients": "Integrated gradients", "occlusion": "Occlusion"}


@dataclass(frozen=True, kw_only=True)
class _Picture:
    title: str
    alt: str
    source: Markup


@dataclass(frozen=True, kw_only=True)
class _Word:
    text: str
    kind: str
    strength: str


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """An example as the template has it."""

    heading: str
    facts: list[tuple[str, str]]
    pictures: list[_Picture]
    texts: list[tuple[str, list[_Word], str]]
    strongest: list[tuple[str, str, str]]


def render_explanation(explanation: Explanation) -> str:
    """Return an explanation as a page. The same explanation gives the same page, to the byte."""
    environment = page_environment(short=short, thousands=count)
    columns = [
        (short(each.column, 60), f"{each.worse:+.4f}", f"{each.spread:.4f}", count(each.features))
        for each in explanation.importance[:_COLUMNS]
    ]
    return environment.get_template("explanation.html.j2").render(
        explanation=explanation,
        examples=[_example(each) for each in explanation.examples],
        columns=columns,
        more=len(explanation.importance) - len(columns),
        tolerance=f"{TOLERANCE:g}",
    )


def _example(example: Example) -> _Shown:
    facts = [
        ("what it is", short(example.target, 200)),
        ("what the model says", short(example.predicted, 200)),
        ("explained output", short(example.output, 200)),
        ("its value", f"{example.value:.4g}"),
        ("its value for the baseline", f"{example.baseline:.4g}"),
    ]
    pictures, texts, strongest = [], [], []
    if example.picture is not None:
        alt = f"test record {example.record}: {short(example.target, 60)}"
        pictures.append(_Picture(title="Record", alt=alt, source=_png(_seen(example.picture))))
    for each in example.attributions:
        name = _TITLES[each.method]
        if each.difference is not None:
            kept = "sums up to it" if each.complete else f"is further away from it than {TOLERANCE:g}"
            facts.append(
                (
                    "sum of the integrated gradients",
                    f"{each.sum:.4g}, {kept}: {each.difference:.4g}, {each.steps} steps",
                )
            )
        if example.pieces:
            words = _words(example, each)
            left = len(example.pieces) - _SHOWN
            texts.append((name, words, f"{count(left)} more parts are not shown." if left > 0 else ""))
        elif each.values.ndim > 1:
            pictures.append(_Picture(title=name, alt=_described(name, each), source=_png(_mapped(_flat(each.values)))))
        if example.pieces or each.values.ndim == 1:
            strongest.append((name, *_strongest(example, each)))
    return _Shown(
        heading=f"Test record {count(example.record)}",
        facts=facts,
        pictures=pictures,
        texts=texts,
        strongest=strongest,
    )


def _seen(picture: NDArray[Any]) -> Image.Image:
    """Return an image as it is, or a spectrogram in grey, with high pitches above."""
    if picture.dtype != np.uint8:
        low, high = float(picture.min()), float(picture.max())
        grey = (picture[::-1] - low) / (high - low or 1.0) * 255
        return Image.fromarray(grey.astype(np.uint8))
    if len(picture) == 3:  # noqa: PLR2004 - colours
        return Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    return Image.fromarray(np.ascontiguousarray(picture[0]))


def _flat(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a map of a picture, its channels summed up."""
    return np.asarray(values.reshape(-1, *values.shape[-2:]).sum(axis=0), dtype=np.float64)


def _mapped(values: NDArray[np.float64]) -> Image.Image:
    """Return values as colours over whatever is behind: blue for the output, vermilion against it."""
    strength = np.abs(values) / (np.abs(values).max() or 1.0)
    pixels = np.zeros((*values.shape, 4), np.uint8)
    pixels[..., :3] = np.where((values >= 0)[..., None], _FOR, _AGAINST)
    pixels[..., 3] = (255 * strength).astype(np.uint8)
    return Image.fromarray(pixels)


def _png(picture: Image.Image) -> Markup:
    picture.thumbnail((_LARGEST, _LARGEST))
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return Markup(f"data:image/png;base64,{b64encode(data.getvalue()).decode()}")  # noqa: S704 - of letters alone


def _described(name: str, attribution: Attribution) -> str:
    """Say what can be seen in a map, for those who cannot see it."""
    values = _flat(attribution.values)
    size = float(np.abs(values).sum())
    if size == 0:
        return f"{name}: nothing speaks for the output or against it"
    speaks = float(values.clip(min=0).sum()) / size
    places = [
        (float(np.abs(part).sum()), f"{_WHERE[row][column]}")
        for row, band in enumerate(np.array_split(values, 3, axis=0))
        for column, part in enumerate(np.array_split(band, 3, axis=1))
    ]
    share, place = max(places)
    return (
        f"{name}: {100 * speaks:.0f} % of what counts speaks for the output; most is in the {place} ninth, "
        f"{100 * share / size:.0f} %"
    )


def _words(example: Example, attribution: Attribution) -> list[_Word]:
    most = float(np.abs(attribution.values).max(initial=0.0)) or 1.0
    found = []
    for piece, value in islice(zip(example.pieces, attribution.values.tolist(), strict=True), _SHOWN):
        strength = abs(value) / most
        kind = "" if strength < 0.05 else "for" if value > 0 else "against"  # noqa: PLR2004 - too faint to see
        found.append(_Word(text=piece.text, kind=kind, strength=f"{45 * strength:.0f}%"))
    return found


def _strongest(example: Example, attribution: Attribution) -> tuple[str, str]:
    """Return the parts or features that speak most for the output, and against it, each with its value."""
    values = attribution.values.ravel()
    names = [short(piece.text.strip() or repr(piece.text), 40) for piece in example.pieces]
    order = np.argsort(-np.abs(values), kind="stable")

    def told(sign: int) -> str:
        chosen = islice((int(at) for at in order if sign * values[at] > 0), _STRONGEST)
        return (
            ", ".join(f"{names[at] if names else f'feature {at + 1}'} ({values[at]:+.3g})" for at in chosen) or "none"
        )

    return told(1), told(-1)
