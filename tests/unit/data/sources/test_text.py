import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.config import Data
from fedtrain.data import ClassTarget, DataInfo, Text, Tokens
from fedtrain.data.site import SiteData, open_site
from fedtrain.data.sources import source_of
from fedtrain.data.sources.text import stored_text
from fedtrain.errors import DataError

LATIN = "Müller".encode("latin-1")


def decoded(tmp_path, texts, *, labels=None, kind=None, other=None, **settings):
    """Write training texts, and those of another file for the test, and read both."""
    for name, values in (("train", texts), ("test", other or texts)):
        column = pa.array(values, kind or pa.string()) if not isinstance(values, pa.Array) else values
        marks = labels if labels and len(labels) == len(column) else [row % 2 for row in range(len(column))]
        pq.write_table(pa.table({"text": column, "label": marks}), tmp_path / f"{name}.parquet")
    data = Data(
        source="parquet",
        path=str(tmp_path / "train.parquet"),
        test_path=str(tmp_path / "test.parquet"),
        **{"text_column": "text", "max_bytes": 12, **settings},
    )
    return source_of("parquet").decode(data)


def texts_of(split):
    return [row.tobytes().rstrip(b"\0").decode() for row in split.features]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_are_stored_as_their_bytes_whatever_the_layout(tmp_path, kind):
    texts = ["one two", "", "drei é", "四"]
    values = [each.encode() for each in texts] if pa.types.is_binary(kind) else texts
    found = decoded(tmp_path, values, kind=kind)
    assert found.info == DataInfo(features=Text(shape=(12,)), target=ClassTarget(names=("0", "1")))
    assert found.train.features.shape == (4, 12)
    assert texts_of(found.train) == texts


def test_a_text_of_a_megabyte_is_cut_between_characters_and_counted(tmp_path):
    found = decoded(tmp_path, ["short", "é" * 500_000, "a" + "四" * 10, "a" * 12])
    assert texts_of(found.train) == ["short", "é" * 6, "a" + "四" * 3, "a" * 12]
    assert found.train.cut_texts(found.info) == 3


def test_a_zero_in_a_text_is_read_as_a_space(tmp_path):
    assert texts_of(decoded(tmp_path, ["a\0b", "c"]).train) == ["a b", "c"]


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["good", None], r"train\.parquet, row 1, column 'text': the value is missing"),
        (
            pa.Array.from_buffers(pa.string(), 2, pa.array([b"good", LATIN]).buffers()),
            r"train\.parquet, row 1, column 'text': the text is not UTF-8: byte 2 of it is none",
        ),
        (pa.array([b"good", LATIN]), r"train\.parquet, row 1, column 'text': the text is not UTF-8: byte 2"),
        (pa.array([1, 2]), "text_column = 'text' has type int64; a text column holds strings"),
    ],
)
def test_what_is_no_text_is_refused_by_file_row_and_column(tmp_path, texts, problem):
    with pytest.raises(DataError, match=problem) as caught:
        decoded(tmp_path, texts, other=["a", "b"])
    assert "Müller" not in str(caught.value)
    assert "M\\xfc" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"text_column": "txt"}, "text_column = 'txt': there is no such column; did you mean text"),
        ({"feature_columns": "text"}, "feature_columns and text_column are both set"),
        ({"label_column": "text"}, "text_column names text, the column of the label"),
    ],
)
def test_a_text_column_is_one_and_no_other(tmp_path, settings, problem):
    with pytest.raises(DataError, match=problem):
        decoded(tmp_path, ["a", "b"], **settings)


@given(st.text(), st.integers(4, 40))
def test_what_is_stored_is_the_longest_part_of_the_text_that_has_room(text, length):
    kept = stored_text(text.encode(errors="ignore"), length, what=lambda: "here").decode()
    whole = text.encode(errors="ignore").decode().replace("\0", " ")
    assert whole.startswith(kept)
    assert len(kept.encode()) <= length
    assert kept == whole or len(whole[: len(kept) + 1].encode()) > length


def test_a_site_reads_the_texts_that_a_simulation_reads(tmp_path):
    found = decoded(tmp_path, ["one", "two"])
    site = SiteData(
        source="parquet", path=str(tmp_path / "train.parquet"), classes="0, 1", text_column="text", max_bytes=12
    )
    records = open_site(site, folder=tmp_path)
    assert records.info == found.info
    assert records.train.features.tobytes() == found.train.features.tobytes()


@pytest.mark.parametrize("features", [Text(shape=(8,)), Tokens(shape=(8,), vocabulary=9)])
def test_a_schema_is_read_back(features):
    info = DataInfo(features=features, target=ClassTarget(names=("a", "b")))
    assert DataInfo.from_json(info.as_json()) == info
