"""Sounds for tests: tones, and files of them."""

import io
import wave

import numpy as np

RATE = 8000


def tone(pitch, seconds=0.5, rate=RATE, loud=0.5):
    """Return a sine with a soft beginning and end, float64."""
    time = np.arange(round(seconds * rate)) / rate
    return loud * np.sin(2 * np.pi * pitch * time) * np.hanning(len(time))


def whole(values):
    """Return samples as integers of 16 bits, full scale."""
    return np.clip(np.rint(np.asarray(values) * 2**15), -(2**15), 2**15 - 1).astype("<i2")


def wav(values, rate=RATE):
    """Return a WAV file of 16 bits, as the standard library writes it; values are (samples,) or (samples, channels)."""
    values = np.asarray(values)
    with io.BytesIO() as file:
        with wave.open(file, "wb") as writer:
            writer.setparams((1 if values.ndim == 1 else values.shape[1], 2, rate, 0, "NONE", "none"))
            writer.writeframes(whole(values).tobytes())
        return file.getvalue()


def encoded(values, form="WAV", width="PCM_16", rate=RATE):
    """Return a file of another form or width, as soundfile writes it."""
    import soundfile

    with io.BytesIO() as file:
        soundfile.write(file, values, rate, format=form, subtype=width)
        return file.getvalue()
