import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedtrain.config import Data
from fedtrain.config.toml import parse_toml
from fedtrain.data.drafting import draft_schema
from fedtrain.data.schema import CsvFormat, schema_of
from fedtrain.data.sources import source_of
from fedtrain.errors import DataError

CSV = """age;weight, kg;ward;smoker;seen;id;outcome
17;70,5;north;yes;2020-02-03;a b;ill
89;?;south;no;2021-11-30;c;well
45;101;"NA";yes;;d;well
"""
FORM = CsvFormat(delimiter=";", decimal=",")


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text(CSV)
    return path


def draft(path, target="outcome", form=FORM):
    return draft_schema(path, target=target, form=form)


def test_a_draft_says_what_was_found_and_marks_it(csv):
    found = draft(csv)
    lines = found.text.splitlines()
    mark = "  # look at this: it came from the data"
    for line in (
        f'age = {{ kind = "number", lower = 10, upper = 90 }}{mark}',
        f'"weight, kg" = {{ kind = "number", lower = 70, upper = 110, missing = "indicator" }}{mark}',
        f'ward = {{ kind = "category", values = ["north", "south"], missing = "indicator" }}{mark}',
        'smoker = { kind = "boolean" }',
        'seen = { kind = "date", format = "%Y-%m-%d", lower = 2020-01-01, upper = 2021-12-31, missing = "indicator" }'
        + mark,
        f'outcome = {{ kind = "target", values = ["ill", "well"] }}{mark}',
        'missing = ["", "?", "NA"]',
        'delimiter = ";"',
        'decimal = ","',
    ):
        assert line in lines
    assert found.found == ("age", "weight, kg", "ward", "seen", "id", "outcome")
    assert "are not public" in found.text


def test_a_draft_reads_the_file_that_it_was_made_of(csv, tmp_path):
    (tmp_path / "schema.toml").write_text(draft(csv).text)
    fields = {"path": str(csv), "schema_file": str(tmp_path / "schema.toml"), "test_fraction": 0.5}
    assert len(source_of("csv").decode(Data(source="csv", **fields)).train) == 3


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (["0", "1", "1"], 'kind = "target", values = ["0", "1"]'),
        (["10", "9", "2"], 'kind = "target", values = ["2", "9", "10"]'),
        (["0.5", "3", "2"], 'kind = "target", lower = 0, upper = 3'),
        ([str(number) for number in range(40)], 'kind = "target", lower = 0, upper = 40'),
    ],
)
def test_a_target_is_classes_or_a_number(tmp_path, values, line):
    path = tmp_path / "people.csv"
    path.write_text("\n".join(["x,y", *(f"1,{value}" for value in values), ""]))
    assert f"y = {{ {line} }}" in draft(path, "y", CsvFormat()).text


def test_text_is_passed_over_and_is_no_target(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("\n".join(["x,y", *(f"{number},some words {number}" for number in range(60)), ""]))
    found = draft(path, "x", CsvFormat())
    assert found.passed_over == ("y",)
    assert 'y = { kind = "ignore" }' in found.text
    with pytest.raises(DataError, match="column 'y': it is neither a number nor one of a few classes"):
        draft(path, "y", CsvFormat())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("patient", [f"p{row}" for row in range(40)]),
        ("Unnamed: 0", range(40)),
        ("row", range(40, 0, -1)),
        ("patient", [f"p{row // 1.5:.0f}" for row in range(40)]),
    ],
)
def test_what_names_or_numbers_records_is_no_category_and_no_number(tmp_path, name, values):
    path = tmp_path / "people.csv"
    path.write_text(
        "\n".join([f"{name},age,y", *(f"{value},{row % 7},{row % 2}" for row, value in enumerate(values)), ""])
    )
    found = draft(path, "y", CsvFormat())
    assert found.passed_over == (name,)
    assert 'age = { kind = "number"' in found.text
    assert 'kind = "ignore" }  # it names or numbers records' in found.text


def test_a_parquet_file_without_a_header_of_its_own_is_drafted_by_its_types(tmp_path):
    path = tmp_path / "people.parquet"
    seen = [dt.date(2020, 1, 2), dt.date(2021, 1, 2)]
    exact = pa.array([1577836800 * 10**9 + 1, 1609372799 * 10**9], pa.timestamp("ns"))
    columns = {"n": [1, 5], "b": [True, False], "seen": seen, "exact": exact, "y": ["a", "b"]}
    pq.write_table(pa.table(columns), path)
    text = draft(path, "y").text
    assert "[csv]" not in text
    for line in (
        'n = { kind = "number", lower = 1, upper = 5 }',
        'b = { kind = "boolean" }',
        'seen = { kind = "date", format = "%Y-%m-%d", lower = 2020-01-01, upper = 2021-12-31 }',
    ):
        assert line in text
    schema_of(parse_toml(text.encode()))


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (["1234567890123456", "1234567890123461", "1234567890123469"], CsvFormat()),
        (["1_000", "2_000", "3_000"], CsvFormat()),
        (["1.5", "2.5", "3.5"], FORM),
        (["0.1", "0.30000000000000004", "0.2"], CsvFormat()),
    ],
)
def test_a_draft_of_odd_numbers_reads_its_file_too(tmp_path, values, form):
    path = tmp_path / "people.csv"
    rows = [f"{row}{form.delimiter}{value}{form.delimiter}{'ab'[row % 2]}" for row, value in enumerate(values)]
    path.write_text("\n".join([form.delimiter.join(["", "x", "y"]), *rows, ""]))
    found = draft(path, "y", form)
    assert found.passed_over == ("a column without a name",)
    (tmp_path / "schema.toml").write_text(found.text)
    fields = {"path": str(path), "schema_file": str(tmp_path / "schema.toml"), "test_fraction": 0.5}
    decoded = source_of("csv").decode(Data(source="csv", **fields))
    assert len(decoded.train) == 3
    assert decoded.rules == ()


def test_typed_numbers_are_numbers_however_text_is_written(tmp_path):
    path = tmp_path / "people.parquet"
    pq.write_table(pa.table({"n": [1.5, 5.25], "y": ["a", "b"]}), path)
    assert 'n = { kind = "number", lower = 1, upper = 6 }' in draft(path, "y").text


def test_columns_without_names_are_numbered(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("1,a\n2,b\n")
    text = draft(path, "f1", CsvFormat(header=False)).text
    assert 'f1 = { kind = "target", values = ["a", "b"] }' in text
    assert "header = false" in text


def test_a_target_that_is_not_there_and_a_file_without_records_are_refused(csv, tmp_path):
    with pytest.raises(DataError, match="there is no column 'label' to predict; its columns are age, weight, kg, ward"):
        draft(csv, "label")
    (tmp_path / "empty.csv").write_text("x,y\n")
    with pytest.raises(DataError, match="holds no records"):
        draft(tmp_path / "empty.csv", "y", CsvFormat())
