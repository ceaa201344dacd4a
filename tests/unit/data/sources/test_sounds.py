import sys

import numpy as np
import pytest

from fedtrain.config import Data, Partition
from fedtrain.data import Sound, lengths_of, open_store
from fedtrain.data.sources.sounds import SoundForm, decode_sounds
from fedtrain.errors import DataError
from tests.sounds import RATE, encoded, tone, wav, whole

FORM = SoundForm(rate=RATE, samples=4000, resample=False, mix_down=False)
STEREO = np.stack([tone(300), tone(500)], axis=1)


def decoded(content, **changed):
    form = SoundForm(**{**vars(FORM), **changed})
    samples, lengths = decode_sounds([content], 1, form=form, place=lambda row: f"a.wav, row {row}")
    assert samples.dtype == np.float32
    return samples[0], int(lengths[0])


def with_declared(content, size):
    """Return a WAV file whose header declares another size of its samples, in bytes."""
    at = content.index(b"data") + 4
    return content[:at] + size.to_bytes(4, "little") + content[at + 4 :]


def without_count(content):
    """Return a FLAC file whose header does not say how many samples there are, as those of streams are."""
    return content[:21] + bytes([content[21] & 0xF0, 0, 0, 0, 0]) + content[26:]


def test_integers_of_16_bits_are_exact():
    samples, length = decoded(wav(tone(300)))
    np.testing.assert_array_equal(samples, whole(tone(300)) / 2**15)
    assert length == 4000


@pytest.mark.parametrize(
    ("width", "steps"), [("PCM_U8", 2**7), ("PCM_24", 2**23), ("PCM_32", 2**31), ("FLOAT", None), ("DOUBLE", None)]
)
def test_other_widths_are_the_same_sound(width, steps):
    # Values that every one of the widths holds.
    values = np.rint(tone(300) * 2**7) / 2**7
    samples, _ = decoded(encoded(values, width=width))
    np.testing.assert_array_equal(samples, values)
    fine = np.rint(tone(300) * steps) / steps if steps else tone(300).astype(np.float32)
    np.testing.assert_array_equal(decoded(encoded(fine, width=width))[0], fine.astype(np.float32))


@pytest.mark.parametrize("width", ["PCM_S8", "PCM_16", "PCM_24"])
def test_flac_is_exact(width):
    values = np.rint(tone(300) * 2**7) / 2**7
    np.testing.assert_array_equal(decoded(encoded(values, "FLAC", width))[0], values)


def test_a_short_sound_is_padded_and_a_long_one_is_cut():
    samples, length = decoded(wav(tone(300, 0.25)))
    assert length == 2000
    np.testing.assert_array_equal(samples[2000:], 0)
    np.testing.assert_array_equal(samples[:2000], whole(tone(300, 0.25)) / 2**15)
    samples, length = decoded(wav(tone(300, 1.0)))
    assert length == 8000
    np.testing.assert_array_equal(samples, whole(tone(300, 1.0))[:4000] / 2**15)


def test_a_chunk_of_odd_size_before_the_samples_is_passed_over():
    content = wav(tone(300))
    at = content.index(b"data")
    noted = content[:at] + b"note" + (3).to_bytes(4, "little") + b"abc\0" + content[at:]
    np.testing.assert_array_equal(decoded(noted)[0], decoded(content)[0])


def test_another_rate_is_converted_where_that_is_asked_for():
    for rate in (16_000, 44_100, 6_000):
        samples, length = decoded(wav(tone(300, rate=rate), rate), resample=True)
        assert abs(length - 4000) <= 1
        np.testing.assert_allclose(samples, tone(300), atol=2e-3)
    # What is above half of the new rate is gone, and does not come back as another pitch.
    assert np.abs(decoded(wav(tone(6000, rate=16_000), 16_000), resample=True)[0]).max() < 0.01


def test_channels_are_averaged_where_that_is_asked_for():
    samples, _ = decoded(wav(STEREO), mix_down=True)
    np.testing.assert_allclose(samples, whole(STEREO).mean(axis=1) / 2**15, atol=1e-7)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (wav(tone(300, rate=16_000), 16_000), r"16,000 samples a second, and sample_rate is 8,000; .*resample = true"),
        (wav(STEREO), r"has 2 channels, and a record has one; .*mix_down = true"),
        (wav(tone(300))[:-2], r"cut off: its header declares 8,000 bytes of samples, and 7,998 are there"),
        (wav(tone(300))[:44], r"cut off: its header declares 8,000 bytes of samples, and 0 are there"),
        (wav(tone(300))[:40], r"cut off, or malformed: it has no samples after its header"),
        (with_declared(wav(tone(300)), 2**32 - 1), r"declares 4,294,967,295 bytes of samples, and 8,000 are there"),
        (wav(np.zeros(0)), r"the sound holds no samples"),
        (b"", "it is not WAV or FLAC"),
        (b"OggS" + bytes(100), "it is not WAV or FLAC"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "it is not WAV or FLAC"),
        (b"RIFF" + bytes(4) + b"WAVE" + bytes(60), "cut off, or malformed"),
        (wav(tone(300)).replace(b"fmt ", b"fmx "), "cut off, or malformed"),
    ],
)
def test_what_cannot_be_a_record_is_refused_with_its_place(content, problem):
    with pytest.raises(DataError, match=rf"^a\.wav, row 0: .*{problem}"):
        decoded(content)


def test_what_needs_soundfile_to_be_made_is_refused_too():
    flac = encoded(tone(300), "FLAC")
    loud = tone(300).astype(np.float32)
    loud[7] = 1.5
    broken = tone(300).astype(np.float32)
    broken[9] = np.nan
    for content, problem in (
        (flac[:-200], "cannot be read|cut off"),
        (flac[:30], "cut off within its header"),
        (without_count(flac), "was written as a stream: its header declares 0 samples|cannot be read"),
        (encoded(loud, width="FLOAT"), "sample 7 is 1.5, beyond full scale"),
        (encoded(broken, width="FLOAT"), "sample 9 is not a finite 32-bit number"),
        (encoded(np.full(50, 1e300), width="DOUBLE"), "sample 0 is not a finite"),
        (encoded(tone(300), width="ULAW"), "WAV with samples of type ULAW; allowed: WAV and FLAC with integers"),
    ):
        with pytest.raises(DataError, match=rf"^a\.wav, row 0: .*({problem})"):
            decoded(content)


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(
        DataError, match=r"soundfile, which is not installed on this machine: pip install 'fedtrain\[au"
    ):
        decoded(wav(tone(300)))
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(DataError, match=r"SciPy, which is not installed .*'fedtrain\[audio\]'"):
        decoded(wav(tone(300, rate=16_000), 16_000), resample=True)


def section(**fields):
    return Data(**{"source": "parquet", "sample_rate": RATE, "seconds": 0.5, "test_fraction": 0.25, **fields})


def column(*contents):
    return [{"bytes": content, "path": f"{row}.wav"} for row, content in enumerate(contents)]


@pytest.fixture
def sounds():
    return [wav(tone(300 + 100 * row, 0.1 * (row + 2))) for row in range(8)]


def test_a_column_of_the_hubs_layout_holds_sounds(parquet, sounds):
    path = parquet("train.parquet", {"audio": column(*sounds), "label": [0, 1] * 4, "who": list("aabbaabb")})
    store = open_store(section(path=path, partition=Partition(kind="natural", column="who")), seed=0)
    assert store.info.features == Sound(shape=(4000,), rate=RATE)
    assert store.train.features.shape == (6, 4000)
    assert store.owners == ("a", "b")
    every = np.sort(np.concatenate([store.train.lengths, store.test.lengths]))
    np.testing.assert_array_equal(every, 800 * np.arange(2, 10))
    assert lengths_of(store.train, store.info).startswith("lengths: ")
    # The same from the cache.
    again = open_store(section(path=path, partition=Partition(kind="natural", column="who")), seed=0)
    assert again.info == store.info
    np.testing.assert_array_equal(again.train.lengths, store.train.lengths)


def test_how_many_were_padded_and_cut_is_said(parquet, sounds):
    path = parquet("train.parquet", {"audio": column(*sounds), "label": [0, 1] * 4})
    test = parquet("test.parquet", {"audio": column(*sounds[:4]), "label": [0, 1] * 2})
    store = open_store(section(path=path, test_path=test, test_fraction=None), seed=0)
    assert lengths_of(store.train, store.info) == (
        "lengths: 3 of 8 sounds are shorter than 0.5 s and were padded with silence, 4 are longer and were cut"
    )
    assert "3 of 4 sounds are shorter" in lengths_of(store.test, store.info)


def test_the_column_is_named_where_there_are_several(parquet, sounds):
    columns = {"first": column(*sounds), "second": column(*sounds[::-1]), "label": [0, 1] * 4}
    path = parquet("train.parquet", columns)
    one = open_store(section(path=path), seed=0)
    other = open_store(section(path=path, audio_column="second"), seed=0)
    assert not np.array_equal(one.train.features, other.train.features)


def test_errors_name_file_row_and_column(parquet, sounds):
    path = parquet("train.parquet", {"audio": column(*sounds[:2], sounds[2][:-2]), "label": [0, 1, 0]})
    with pytest.raises(DataError, match=r"train\.parquet, row 2, column 'audio': the sound is cut off"):
        open_store(section(path=path), seed=0)
    path = parquet("missing.parquet", {"audio": [*column(*sounds[:2]), None], "label": [0, 1, 0]})
    with pytest.raises(DataError, match=r"missing\.parquet, row 2, column 'audio': the sound is missing"):
        open_store(section(path=path), seed=0)


@pytest.mark.parametrize(
    ("columns", "fields", "problem"),
    [
        ({"a": [1.0, 2.0], "label": [0, 1]}, {}, "sample_rate = 8000 says that records are sounds, and no column"),
        (
            {"a": [1.0, 2.0], "label": [0, 1]},
            {"audio_column": "a"},
            "audio_column = 'a' has type double; an audio column",
        ),
        ({"a": [1.0, 2.0], "label": [0, 1]}, {"audio_column": "b"}, "audio_column = 'b': there is no such column"),
    ],
)
def test_a_file_without_sounds_is_refused(parquet, columns, fields, problem):
    with pytest.raises(DataError, match=problem):
        open_store(section(path=parquet("train.parquet", columns), **fields), seed=0)


def test_sounds_that_are_read_as_images_are_recognised(parquet, sounds):
    path = parquet("train.parquet", {"audio": column(*sounds), "label": [0, 1] * 4})
    with pytest.raises(
        DataError, match=r"row 0: the image cannot be read .*; it is a sound: set sample_rate and seconds"
    ):
        open_store(Data(source="parquet", path=path, test_fraction=0.5), seed=0)


def test_subfolders_are_classes(tmp_path, sounds):
    for number, name in enumerate(("one/a.wav", "one/b.WAV", "two/c.wav", "two/d.wav")):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).write_bytes(sounds[number])
    (tmp_path / "train" / "two" / "Thumbs.db").write_bytes(b"")
    store = open_store(section(source="sounds", path=str(tmp_path / "train")), seed=0)
    assert store.info.classes == ("one", "two")
    assert (len(store.train), len(store.test)) == (3, 1)
    (tmp_path / "train" / "two" / "e.mp3").write_bytes(b"")
    with pytest.raises(DataError, match=r"e\.mp3: a folder of a class may hold only \.flac, \.wav files"):
        open_store(section(source="sounds", path=str(tmp_path / "train")), seed=0)


@pytest.mark.shared_data
def test_the_real_digits_are_read(shared):
    data = Data(
        source="parquet",
        path=str(shared / "fsdd" / "train.parquet"),
        test_path=str(shared / "fsdd" / "test.parquet"),
        sample_rate=RATE,
        seconds=1.0,
        partition=Partition(kind="natural", column="speaker"),
    )
    store = open_store(data, seed=0)
    assert store.train.features.shape == (2700, 8000)
    assert store.test.features.shape == (300, 8000)
    assert len(store.owners) == 6
    assert (store.train.lengths.min(), np.median(store.train.lengths)) == (1149, 3357)
