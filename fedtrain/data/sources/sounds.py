"""Sounds in WAV or FLAC, decoded to the rate and length that the configuration says.

libsndfile reads what it can: a file that was cut off as a shorter one, down to none of its samples, without an error.
So what the header declares is read here too, and compared with what is there.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Data
from fedtrain.data.sources.base import Place
from fedtrain.data.types import Labels, Sound
from fedtrain.errors import DataError
from fedtrain.progress import working

_FORMATS: Final = {"WAV", "WAVEX", "FLAC"}
_WIDTHS: Final = {"PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"}
_CHUNK: Final = 8  # bytes of the name and the size of a chunk
_FORMAT: Final = 16  # bytes of the chunk "fmt ", at least
_STREAM: Final = 42  # bytes to the end of a FLAC file's first block


@dataclass(frozen=True, kw_only=True)
class SoundForm:
    """What sounds are to be, as the configuration says.

    Attributes:
        rate: samples a second.
        samples: of a record.
        resample: whether a file of another rate is brought to this one.
        mix_down: whether the mean over several channels is taken.
    """

    rate: int
    samples: int
    resample: bool
    mix_down: bool

    @classmethod
    def of(cls, data: Data) -> Self:
        """Return the form of the sounds of a data set."""
        assert data.sample_rate is not None  # Data is validated
        assert data.seconds is not None
        samples = round(data.seconds * data.sample_rate)
        return cls(rate=data.sample_rate, samples=samples, resample=data.resample, mix_down=data.mix_down)

    @property
    def features(self) -> Sound:
        """The schema of a record."""
        return Sound(shape=(self.samples,), rate=self.rate)


def decode_sounds(
    encoded: Iterable[bytes], count: int, *, form: SoundForm, place: Place
) -> tuple[NDArray[np.float32], Labels]:
    """Decode sounds.

    Integers of 8, 16 and 24 bits are exact as float32, full scale from -1 to 1; those of 32 bits, and floats of 64, are
    rounded to it. Where the form asks for it, channels are averaged first, and then another rate is converted by a
    polyphase filter (`scipy.signal.resample_poly`: a Kaiser window with beta 5, the rates in lowest terms). Then a
    sound that is too long is cut at its end, and one that is too short is padded there with zeros.

    Args:
        encoded: the files' contents, WAV or FLAC.
        count: how many there are.
        form: what they are to be.
        place: names a row in errors.

    Returns:
        Samples, shape (count, form.samples), and how many each sound had before it was padded or cut, shape (count,).

    Raises:
        DataError: a sound cannot be read, is empty or cut off, has another rate or several channels where the form does
            not allow for them, or samples that are not finite or beyond full scale.
    """
    samples = np.zeros((count, form.samples), dtype=np.float32)
    lengths = np.zeros(count, dtype=np.int64)
    with working("decoding sounds", count) as done:
        for row, content in enumerate(encoded):
            found = _decode(content, form, place(row))
            lengths[row] = len(found)
            kept = found[: form.samples]
            samples[row, : len(kept)] = kept
            done(row + 1)
    return samples, lengths


def is_sound(content: bytes) -> bool:
    """Tell whether a file begins as WAV or FLAC does."""
    return content[:4] == b"fLaC" or (content[:4] == b"RIFF" and content[8:12] == b"WAVE")


def _decode(content: bytes, form: SoundForm, place: str) -> NDArray[np.float32]:
    values, rate = _read(content, form, place)
    if not np.isfinite(values).all():
        raise DataError(f"{place}: sample {_first(~np.isfinite(values))} is not a finite 32-bit number")
    if (wide := np.abs(values) > 1).any():
        first = _first(wide)
        raise DataError(
            f"{place}: sample {first} is {values[first].max():g}, beyond full scale, which is from -1 to 1; scale the "
            "file by a public constant"
        )
    sound: NDArray[np.float32] = values.mean(axis=1, dtype=np.float64).astype(np.float32)
    if rate != form.rate:
        common = math.gcd(rate, form.rate)
        resampled = _signal().resample_poly(sound.astype(np.float64), form.rate // common, rate // common)
        sound = resampled.astype(np.float32)
    return sound


def _first(mask: NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(mask.any(axis=1))[0])


def _read(content: bytes, form: SoundForm, place: str) -> tuple[NDArray[np.float32], int]:
    """Return the samples of a file, shape (frames, channels), and its rate, where its header is as the form allows.

    Raises:
        DataError: it is not.
    """
    library = _soundfile()
    declared = _declared(content, place)
    try:
        with library.SoundFile(BytesIO(content)) as file:
            if file.format not in _FORMATS or file.subtype not in _WIDTHS:
                raise DataError(
                    f"{place}: the sound is {file.format} with samples of type {file.subtype}; allowed: WAV and FLAC "
                    "with integers of 8 to 32 bits or floats of 32 or 64 bits; convert it"
                )
            _require(file.samplerate, file.channels, form, place)
            values = file.read(dtype="float32", always_2d=True)
            rate = int(file.samplerate)
    except (library.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(f"{place}: the sound cannot be read as WAV or FLAC: {error}") from error
    if len(values) != declared:
        raise DataError(
            f"{place}: the sound is cut off, or was written as a stream: its header declares {declared:,} samples, and "
            f"{len(values):,} can be read; copy or convert it again, or leave it out"
        )
    if declared == 0:
        raise DataError(f"{place}: the sound holds no samples; leave it out")
    return values, rate


def _require(rate: int, channels: int, form: SoundForm, place: str) -> None:
    if rate != form.rate and not form.resample:
        raise DataError(
            f"{place}: the sound has {rate:,} samples a second, and sample_rate is {form.rate:,}; convert it, or set "
            "resample = true, which converts every file of another rate"
        )
    if channels > 1 and not form.mix_down:
        raise DataError(
            f"{place}: the sound has {channels} channels, and a record has one; convert it, or set mix_down = true, "
            "which takes the mean over the channels"
        )


def _declared(content: bytes, place: str) -> int:
    """Return how many samples of each channel the header of a file declares.

    Raises:
        DataError: it is no WAV or FLAC file, or declares more bytes than there are.
    """
    if not is_sound(content):
        raise DataError(f"{place}: the sound cannot be read: it is not WAV or FLAC; convert it")
    if content[:4] == b"fLaC":
        # 20 bits of the rate, 3 of the channels, 5 of the width and 36 of the number of samples: RFC 9639, section 8.2.
        if len(content) < _STREAM:
            raise DataError(f"{place}: the sound is cut off within its header; copy the file again, or leave it out")
        return int.from_bytes(content[18:26], "big") & (1 << 36) - 1
    return _declared_by_chunks(content, place)


def _declared_by_chunks(content: bytes, place: str) -> int:
    start, frame = 12, 0
    while start + _CHUNK <= len(content):
        name, size = content[start : start + 4], int.from_bytes(content[start + 4 : start + 8], "little")
        start += _CHUNK
        if name == b"fmt " and len(content) >= start + _FORMAT:
            frame = int.from_bytes(content[start + 12 : start + 14], "little")
        if name == b"data" and frame:
            if size > len(content) - start:
                raise DataError(
                    f"{place}: the sound is cut off: its header declares {size:,} bytes of samples, and "
                    f"{len(content) - start:,} are there; copy the file again, or leave it out"
                )
            return size // frame
        start += size + size % 2
    raise DataError(f"{place}: the sound is cut off, or malformed: it has no samples after its header")


def _soundfile() -> Any:
    try:
        import soundfile  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _missing("soundfile") from error
    return soundfile


def _signal() -> Any:
    try:
        from scipy import signal  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _missing("SciPy") from error
    return signal


def _missing(package: str) -> DataError:
    return DataError(
        f"sounds are read with {package}, which is not installed on this machine: pip install 'fedtrain[audio]'"
    )
