"""Made-up records that a new experiment begins with: the same ones each time, and nobody's."""

import io
import wave
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

_ROWS = 900
_MESSAGES = 1800
_PLACES = ("north", "south", "west")
_WARDS = ("heart", "kidneys", "lungs")
_YES: Final = {False: "no", True: "yes"}

_RATE, _SECONDS = 8000, 0.25

_GREETINGS = ("Hello,", "Dear practice,", "Good morning,", "Hi,", "To whom it may concern:")
_SUBJECTS: Final[dict[str, tuple[str, ...]]] = {
    "appointment": (
        "may I come on {day} at {hour} in place of {other}?",
        "I have to move my appointment of {day} to {other} at {hour}.",
        "is there still an hour free on {day} after {hour}?",
        "I cannot come on {day} at {hour}; is {other} possible?",
        "when is the doctor there on {day}, before {hour} or later?",
    ),
    "bill": (
        "bill {number} of {day} has a wrong amount.",
        "I have paid bill {number} twice, on {day} and on {other}.",
        "which account do I pay invoice {number} to, and until when?",
        "my insurance asks for a copy of invoice {number}.",
        "the amount on the reminder of {day} is not the {number} that I owe.",
    ),
    "prescription": (
        "my tablets last until {day}, and I need prescription {number} again.",
        "the pharmacy did not get the prescription of {day} before {hour}.",
        "may I take the tablets of {day} twice, at {hour} and at night?",
        "please send prescription {number} for the drops before {day}.",
        "the pharmacy has the tablets in another dose than {number} mg; is that right?",
    ),
}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
_ENDINGS = (
    "Thank you!",
    "Please call me back.",
    "Best wishes",
    "I am at home in the evening.",
    "Many thanks for your help.",
)


def patients() -> bytes:
    """Return patients of three hospitals, as a CSV file: numbers, a category, a date, and whether they are ill."""
    draw = np.random.default_rng(0)
    hospital = draw.integers(3, size=_ROWS)
    age = draw.integers(20, 90, size=_ROWS)
    pressure = np.round(draw.normal(110 + 0.35 * age, 14)).astype(np.int64)
    sugar = np.round(draw.normal(95 + 6 * hospital, 18)).astype(np.int64)
    smoker = [_YES[bool(value)] for value in draw.integers(3, size=_ROWS) == 0]
    ward = [_WARDS[number] for number in draw.integers(len(_WARDS), size=_ROWS)]
    days = [date(2024, 1, 1) + timedelta(days=int(number)) for number in draw.integers(730, size=_ROWS)]
    risk = (age - 55) / 18 + (pressure - 130) / 20 + (sugar - 100) / 25 + draw.normal(0, 0.7, size=_ROWS)
    ill = [_YES[value > 0] for value in risk]
    shown = [
        str(value) if there else "NA" for value, there in zip(pressure, draw.integers(20, size=_ROWS), strict=True)
    ]
    columns = ([_PLACES[number] for number in hospital], age, shown, sugar, smoker, ward, days, ill)
    lines = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    return "\n".join(["hospital,age,pressure,sugar,smoker,ward,admitted,ill", *lines, ""]).encode()


def messages() -> bytes:
    """Return messages of patients to three practices, as a Parquet file: the text, and what each is about."""
    draw = np.random.default_rng(0)
    said: dict[str, str] = {}  # none of them twice, or some would be training and test records
    while len(said) < _MESSAGES:
        about = _one(draw, tuple(_SUBJECTS))
        day, other = draw.permutation(_DAYS)[:2]
        hour, number = f"{draw.integers(8, 18)}:{draw.integers(6)}0", draw.integers(10, 1000)
        subject = _one(draw, _SUBJECTS[about]).format(day=day, other=other, hour=hour, number=number)
        said[" ".join((_one(draw, _GREETINGS), subject, _one(draw, _ENDINGS)))] = about
    practices = [_PLACES[row % len(_PLACES)] for row in range(_MESSAGES)]
    return _parquet({"practice": practices, "message": list(said), "about": list(said.values())})


def _one(draw: Generator, words: Sequence[str]) -> str:
    return words[int(draw.integers(len(words)))]


def machines() -> bytes:
    """Return a Parquet file of sounds of machines at three works: WAV files of a quarter of a second."""
    draw = np.random.default_rng(0)
    sounds: Sequence[tuple[str, Callable[[Generator], NDArray[np.float64]]]] = (
        ("hums", _hum),
        ("knocks", _knock),
        ("whistles", _whistle),
    )
    columns: dict[str, list[Any]] = {"works": [], "sound": [], "machine": []}
    for row in range(_ROWS):
        machine, sounding = sounds[int(draw.integers(len(sounds)))]
        works = row % len(_PLACES)
        noise = draw.uniform(0.02, 0.4) * draw.standard_normal(round(_SECONDS * _RATE))
        heard = (0.2 + 0.1 * works) * (sounding(draw) + noise)
        columns["works"].append(_PLACES[works])
        columns["sound"].append({"bytes": _wav(heard), "path": f"{row}.wav"})
        columns["machine"].append(machine)
    return _parquet(columns)


def _time() -> NDArray[np.float64]:
    return np.arange(round(_SECONDS * _RATE)) / _RATE


def _hum(draw: Generator) -> NDArray[np.float64]:
    pitch = draw.uniform(80, 160)
    tones = [np.sin(2 * np.pi * pitch * number * _time()) / number for number in (1, 2, 3, 4)]
    heard: NDArray[np.float64] = np.sum(tones, axis=0) / 2
    return heard


def _knock(draw: Generator) -> NDArray[np.float64]:
    period = draw.uniform(0.08, 0.16)
    return draw.standard_normal(len(_time())).clip(-3, 3) / 3 * np.exp(-60 * (_time() % period))


def _whistle(draw: Generator) -> NDArray[np.float64]:
    start, rise = draw.uniform(1500, 2500), draw.uniform(500, 1500)
    return np.sin(2 * np.pi * (start + rise * _time()) * _time())


def _wav(values: NDArray[np.float64]) -> bytes:
    with io.BytesIO() as file:
        with wave.open(file, "wb") as written:
            written.setparams((1, 2, _RATE, 0, "NONE", "none"))
            written.writeframes(np.rint(values.clip(-1, 1) * (2**15 - 1)).astype("<i2").tobytes())
        return file.getvalue()


def _parquet(columns: Mapping[str, object]) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - takes a second to import
    import pyarrow.parquet as pq  # noqa: PLC0415

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()
