"""CSV files of texts, and of paths of images and sounds: the records of Parquet files with the same content."""

import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Picture
from pydantic import ValidationError

from fedtrain.config import Data, Partition
from fedtrain.data import open_store
from fedtrain.data.site import open_site, read_site_data
from fedtrain.data.sources import source_of
from fedtrain.errors import DataError
from tests.sounds import tone, wav

TEXTS = ["good film", " ", "", 'a "bad", bad end', "é\nNA", "NA"]
LABELS = ["yes", "no", "no", "yes", "no", "yes"]
SOUND = {"sample_rate": 8000, "seconds": 0.1, "audio_column": "file"}
IMAGE = {"image_column": "file"}


def picture(value, size=(4, 3)):
    buffer = io.BytesIO()
    Picture.fromarray(np.full(size[::-1], value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def content(kind, number):
    return picture(10 * number) if kind == "image" else wav(tone(300 + 100 * number, 0.1))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def decode(folder, file="a.csv", **fields):
    wanted = {"test_fraction": 0.5} if "test_path" not in fields else {}
    return source_of("csv").decode(Data(source="csv", path=str(folder / file), **wanted, **fields))


def write_texts(folder):
    rows = [
        f'{number},"{text.replace(chr(34), 2 * chr(34))}",{label}, A{number % 2}'
        for number, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))
    ]
    (folder / "a.csv").write_text("\n".join(["id,text,label, by", *rows, ""]), newline="")
    owners = [f"A{number % 2}" for number in range(len(TEXTS))]
    pq.write_table(pa.table({"text": TEXTS, "label": LABELS, "by": owners}), folder / "a.parquet")


def write_files(folder, kind, name="a.csv", rows=range(6)):
    (folder / "files").mkdir(exist_ok=True)
    lines = []
    for number in rows:
        (folder / "files" / f"{number}.bin").write_bytes(content(kind, number))
        lines.append(f"files/{number}.bin,{LABELS[number]},A{number % 2}")
    (folder / name).write_text("\n".join(["file,label,by", *lines, ""]))


def same(one, other):
    assert one.info == other.info
    np.testing.assert_array_equal(one.train.features, other.train.features)
    np.testing.assert_array_equal(one.train.targets, other.train.targets)
    assert (one.train.owners is None) == (other.train.owners is None)
    if one.train.owners is not None:
        np.testing.assert_array_equal(one.train.owners, other.train.owners)
    assert one.owners == other.owners


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("target", ["class", "text"])
def test_texts_are_those_of_a_parquet_file(folder, target, owned):
    write_texts(folder)
    fields = {"text_column": "text", "target": target, "max_bytes": 12}
    if owned:
        fields["partition"] = Partition(kind="natural", column="by")
    parquet = Data(source="parquet", path=str(folder / "a.parquet"), test_fraction=0.5, **fields)
    same(decode(folder, **fields), source_of("parquet").decode(parquet))


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_files_are_those_of_a_parquet_file(folder, kind):
    write_files(folder, kind)
    packed = [{"bytes": content(kind, number), "path": f"{number}"} for number in range(6)]
    pq.write_table(pa.table({"file": packed, "label": LABELS}), folder / "a.parquet")
    fields = IMAGE if kind == "image" else SOUND
    parquet = Data(source="parquet", path=str(folder / "a.parquet"), test_fraction=0.5, **fields)
    same(decode(folder, **fields), source_of("parquet").decode(parquet))


@pytest.mark.parametrize(
    ("values", "fields", "expected"),
    [
        (["1.5", "-2e1", " 3"], {"target": "number"}, [1.5, -20, 3]),
        (["yes,0", "no,1", "no,0"], {"target": "labels", "label_columns": "label,more"}, [[1, 0], [0, 1], [0, 0]]),
        (["10", "9", "10"], {}, [0, 1, 0]),  # texts, sorted as such
        (["10", "9", "10"], {"classes": "9,10"}, [1, 0, 1]),
    ],
)
def test_targets_are_read_as_the_configuration_says(folder, values, fields, expected):
    more = ",more" if "label_columns" in fields else ""
    (folder / "a.csv").write_text(f"text,label{more}\n" + "".join(f"t,{value}\n" for value in values))
    data = Data(source="csv", path=str(folder / "a.csv"), test_fraction=0.4, text_column="text", **fields)
    store = open_store(data, seed=0)
    found = [*store.train.targets.tolist(), *store.test.targets.tolist()]
    assert sorted(found) == sorted(expected)


def test_several_files_are_one_data_set_and_errors_name_the_file_and_its_line(folder):
    (folder / "all").mkdir()
    for name in ("a", "b"):
        write_files(folder / "all", "image", f"{name}.csv", rows=range(3))
    assert len(decode(folder, "all", **IMAGE).train) == 6
    (folder / "all" / "files" / "9.bin").write_bytes(picture(1, (5, 5)))
    (folder / "all" / "b.csv").write_text("file,label\nfiles/0.bin,no\n\nfiles/9.bin,no\n")
    with pytest.raises(DataError, match=r"b\.csv, line 4 \(.*/9\.bin\): the image is 5 x 5 grey, but the first"):
        decode(folder, "all", **IMAGE)


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_a_file_that_is_named_and_changed_is_read_again(folder, kind):
    write_files(folder, kind)
    fields = IMAGE if kind == "image" else SOUND
    data = Data(source="csv", path=str(folder / "a.csv"), test_fraction=0.5, **fields)
    before = open_store(data, seed=0)
    (folder / "files" / "2.bin").write_bytes(content(kind, 5))
    os.utime(folder / "files" / "2.bin", ns=(1, 1))
    after = open_store(data, seed=0)
    assert before.folder != after.folder
    assert (before.train.features != after.train.features).any() or (before.test.features != after.test.features).any()


def test_a_file_that_both_sets_name_is_refused(folder):
    write_files(folder, "image")
    write_files(folder, "image", "b.csv", rows=[5])
    with pytest.raises(DataError, match=r"b\.csv, line 2: .*5\.bin is training data too"):
        decode(folder, test_path=str(folder / "b.csv"), **IMAGE)
    with pytest.raises(DataError, match="is both training and test data"):
        decode(folder, test_path=str(folder / "a.csv"), **IMAGE)


def test_groups_of_test_records_are_read(folder):
    write_files(folder, "image")
    data = Data(source="csv", path=str(folder / "a.csv"), test_fraction=0.5, group_column="by", **IMAGE)
    assert set(open_store(data, seed=0).groups) <= {"A0", "A1"}
    (folder / "a.csv").write_text((folder / "a.csv").read_text().replace("3.bin,yes,A1", "3.bin,yes,"))
    with pytest.raises(DataError, match=r"a\.csv, line 5: there is no value in data\.group_column"):
        open_store(data, seed=0)


def test_a_site_has_the_records_of_a_simulation(folder):
    write_files(folder, "image")
    (folder / "site.toml").write_text(
        '[data]\nsource = "csv"\npath = "a.csv"\nimage_column = "file"\nclasses = "no,yes"\n'
    )
    site = open_site(read_site_data(folder), folder=folder)
    np.testing.assert_array_equal(site.train.features, decode(folder, classes="no,yes", **IMAGE).train.features)


@pytest.mark.parametrize(
    ("text", "fields", "words"),
    [
        ("file,label\nfiles/7.bin,no\n", IMAGE, r"a\.csv, line 2, column 'file': .*7\.bin: there is no such file"),
        ("file,label\n,no\n", IMAGE, r"a\.csv, line 2, column 'file': the value is missing"),
        ("file,label\nhttps://example.org/a.png,no\n", IMAGE, "there is no such file"),
        ("file,label\n.,no\n", IMAGE, "there is no such file"),
        (f"file,label\n{300 * 'a'}.png,no\n", IMAGE, r"line 2, column 'file': a{80}: File name too long"),
        ("file,label\n~nobody-here/a.png,no\n", IMAGE, "line 2, column 'file': .* no user of that name"),
        ("file,label\nfiles/0.bin,\n", IMAGE, r"line 2 \(.*0\.bin\), column 'label': the value is missing"),
        (
            "path,label\nfiles/0.bin,no\n",
            IMAGE,
            "image_column = 'file': there is no such column; known keys: label, path",
        ),
        ("file,file\nfiles/0.bin,no\n", IMAGE, "more than one column is named 'file'"),
        ("file,label\na.csv,no\n", IMAGE, r"line 2 \(.*a\.csv\): the image cannot be read as PNG or JPEG"),
        ("file,label\nfiles/0.bin,no\n", SOUND, r"line 2 \(.*0\.bin\), column 'file': the sound .* not WAV or FLAC"),
        ("file,label\nsounds/8.wav,no\nsounds/16.wav,no\n", SOUND, r"line 3 .*16,000 samples a second"),
        ("text,label\na,no\nb\n", {"text_column": "text"}, r"a\.csv, line 3: 1 values, and 2 are expected"),
        ('text,label\n"a,no\nb,no\n', {"text_column": "text"}, r"a\.csv, line 2: a quote .* is not closed"),
        ("text,label\na,no\nb,\n", {"text_column": "text"}, r"a\.csv, line 3, column 'label': the value is missing"),
        ("text;label\na;no\n", {"text_column": "text"}, "with ',' between values it has one column"),
        ("text,label\n", {"text_column": "text"}, "holds no records"),
        ("text,by\na,no\n", {"text_column": "text"}, "label_column = 'label': there is no such column"),
        ("text,label\na,1.5\nb,two\n", {"text_column": "text", "target": "number"}, r"line 3, .*'two' is no number"),
        (
            "text,a,b\nx,1,2\n",
            {"text_column": "text", "target": "labels", "label_columns": "a,b"},
            r"a\.csv, line 2, column 'b': '2' is none of true or false",
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_file_line_and_column(folder, text, fields, words):
    write_files(folder, "image")
    (folder / "sounds").mkdir()
    for rate in (8, 16):
        (folder / "sounds" / f"{rate}.wav").write_bytes(wav(tone(300, 0.1, rate * 1000), rate * 1000))
    (folder / "a.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        decode(folder, **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, 'source = "csv" needs it for a table'),
        ({"feature_columns": "a"}, 'source = "csv" needs it for a table'),
        ({"text_column": "a", "feature_columns": "b"}, 'source = "csv" needs it for a table'),
        ({"text_column": "a", "sample_rate": 8000, "seconds": 1.0}, "audio_column is not set"),
        ({"image_column": "a", "sample_rate": 8000, "seconds": 1.0}, "audio_column is not set"),
        ({"text_column": "a", "target": "labels"}, "label_columns is not set"),
    ],
)
def test_what_a_configuration_leaves_open_is_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        Data(source="csv", path="a.csv", test_fraction=0.5, **fields)


def test_an_image_and_a_text_are_not_one_record(folder):
    write_texts(folder)
    with pytest.raises(DataError, match="image_column and text_column are both set"):
        decode(folder, image_column="text", text_column="text")
