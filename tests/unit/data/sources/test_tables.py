"""Tables by a schema file: what values become, and what is refused, in CSV and in Parquet files."""

import datetime as dt
import decimal
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedtrain.config import Data, Partition
from fedtrain.data.sources import source_of
from fedtrain.data.types import RuleCounts
from fedtrain.errors import DataError

SCHEMA = """
[csv]
missing = ["", "?"]

[columns]
age = { kind = "number", lower = 0, upper = 100, missing = "indicator", constant = 25 }
dose = { kind = "number", lower = -1, upper = 1, outside = "clip" }
ward = { kind = "category", values = ["north", "south"], aliases = { N = "north" }, missing = "indicator" }
smoker = { kind = "boolean", missing = "indicator" }
seen = { kind = "date", format = "%d.%m.%Y", lower = 2020-01-01, upper = 2020-12-30 }
hospital = { kind = "owner" }
note = { kind = "ignore" }
outcome = { kind = "target", values = ["well", "ill"] }
"""
HEAD = "age,dose,ward,smoker,seen,hospital,note,outcome"
ROW = "50,0,north,yes,01.01.2020,A,-,well"


@pytest.fixture
def table(tmp_path):
    """Write a schema and a CSV file; return what is decoded of it."""

    def decode(*rows, schema=SCHEMA, head=HEAD, test=None, **fields):
        (tmp_path / "schema.toml").write_text(schema)
        path = tmp_path / "train.csv"
        path.write_text("\n".join([head, *rows, ""]))
        section = {"path": str(path), "schema_file": str(tmp_path / "schema.toml"), "test_fraction": 0.5} | fields
        if test is not None:
            (tmp_path / "test.csv").write_text("\n".join([head, *test, ""]))
            section |= {"test_path": str(tmp_path / "test.csv"), "test_fraction": None}
        return source_of("csv").decode(Data(source="csv", **section))

    return decode


def test_values_become_features_by_the_schema_alone(table):
    decoded = table(
        ROW,
        " 100 , 7 , N , FALSE , 30.12.2020 ,B,,ill",
        "?,-0.5,elsewhere,?,01.07.2020,A,?,ill",
        "0,-1e3,?,1,01.07.2020,A,x y,well",
    )
    assert decoded.info.columns == (
        "age",
        "age missing",
        "dose",
        "ward = north",
        "ward = south",
        "ward other",
        "ward missing",
        "smoker",
        "smoker missing",
        "seen",
    )
    day = 182 / 365 * 2 - 1
    expected = [
        [0, 0, 0, 1, 0, 0, 0, 1, 0, -1],
        [1, 0, 1, 1, 0, 0, 0, -1, 0, 364 / 365 * 2 - 1],
        [-0.5, 1, -0.5, 0, 0, 1, 0, 0, 1, day],
        [-1, 0, -1, 0, 0, 0, 1, 1, 0, day],
    ]
    np.testing.assert_allclose(decoded.train.features, np.array(expected, np.float32), atol=1e-7)
    assert decoded.train.targets.tolist() == [0, 1, 1, 0]
    assert decoded.categorical == ()
    assert decoded.owners == ()


def test_the_scale_may_be_from_zero(table):
    decoded = table("75,0,north,no,01.01.2020,A,,ill", schema=f'scale = "0 to 1"\n{SCHEMA}')
    np.testing.assert_allclose(decoded.train.features[0], [0.75, 0, 0.5, 1, 0, 0, 0, 0, 0, 0])


def test_columns_are_found_by_name_and_ignored_ones_may_be_absent(table):
    whole = table(ROW)
    other = table("well,01.01.2020,yes,north,0,50", head="outcome,seen,smoker,ward,dose,age")
    np.testing.assert_array_equal(other.train.features, whole.train.features)
    assert other.info == whole.info


def test_owners_are_read_where_records_are_split_by_them(table):
    split = {"partition": Partition(kind="natural", column="hospital")}
    decoded = table(ROW, ROW.replace(",A,", ",B,"), ROW, **split)
    assert decoded.owners == ("A", "B")
    assert decoded.train.owners.tolist() == [0, 1, 0]
    with pytest.raises(DataError, match=r"train.csv, line 3, column 'hospital': the value is missing"):
        table(ROW, ROW.replace(",A,", ",,"), **split)
    with pytest.raises(DataError, match=r"there is no column 'hospital', which is in the schema file"):
        table(ROW.replace(",A,", ","), head=HEAD.replace("hospital,", ""), **split)
    with pytest.raises(DataError, match=r"partition.column = 'ward' is no column of kind = \"owner\""):
        table(ROW, partition=Partition(kind="natural", column="ward"))


def test_numbers_are_targets_by_their_bounds(table):
    schema = SCHEMA.replace('values = ["well", "ill"]', "lower = 0, upper = 10")
    decoded = table(ROW.replace("well", "2.5"), ROW.replace("well", "0"), schema=schema, target="number")
    np.testing.assert_allclose(decoded.train.targets, [-0.5, -1])
    assert decoded.train.targets.dtype == np.float32
    with pytest.raises(DataError, match=r"column 'outcome': '11' is outside of lower = 0.0 and upper = 10.0"):
        table(ROW.replace("well", "11"), schema=schema, target="number")
    with pytest.raises(DataError, match=r'data.target = "class", and the target of the schema file .* is a number'):
        table(ROW.replace("well", "2.5"), schema=schema)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("50,", "150,", "column 'age': '150' is outside of lower = 0.0 and upper = 100.0.*outside = \"clip\""),
        ("50,", "fifty,", "column 'age': 'fifty' is no number; if it stands for a missing value"),
        ("50,", "0x10,", "column 'age': '0x10' is no number"),
        ("50,", "nan,", "column 'age': 'nan' is no number"),
        ("50,", "inf,", "column 'age': 'inf' is no number"),
        ("50,", "1_0,", "column 'age': '1_0' is no number"),
        ("50,", '"1,5",', "column 'age': '1,5' is no number; with decimal = \".\""),
        ("50,0,", "50,?,", "column 'dose': the value is missing"),
        ("yes", "perhaps", "column 'smoker': 'perhaps' is none of true or false"),
        ("01.01.2020", "2020-01-01", "column 'seen': '2020-01-01' is no date of the format '%d.%m.%Y'"),
        ("01.01.2020", "30.02.2020", "column 'seen': '30.02.2020' is no date"),
        ("01.01.2020", "31.12.2019", "column 'seen': '31.12.2019' is outside of lower = 2020-01-01"),
        ("01.01.2020", "31.12.2020", "column 'seen': '31.12.2020' is outside"),
        ("01.01.2020", "", "column 'seen': the value is missing"),
        ("well", "dead", "column 'outcome': 'dead' is none of the 2 values in the schema file: 'well', 'ill'"),
        ("well", "?", "column 'outcome': the value is missing"),
    ],
)
@pytest.mark.parametrize("where", ["train", "test"])
def test_a_value_that_does_not_fit_is_refused_by_its_place(table, old, new, words, where):
    assert old in ROW
    bad = ROW.replace(old, new, 1)
    with pytest.raises(DataError, match=rf"{where}.csv, line 4, {words}"):
        table(ROW, "", ROW if where == "test" else bad, ROW, test=[ROW, "", bad if where == "test" else ROW])


def test_an_unseen_category_can_be_refused(table):
    schema = SCHEMA.replace('aliases = { N = "north" }', 'unseen = "refuse"')
    with pytest.raises(DataError, match="line 2, column 'ward': 'west' is none of the 2 values in the schema file"):
        table(ROW.replace("north", "west"), schema=schema)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (HEAD.replace("dose", "Dose"), "there is no column 'dose', which is in the schema file; it has 'Dose'"),
        (HEAD.replace("dose", "age"), "more than one column is named 'age'"),
        (
            HEAD.replace("note", "remark"),
            'the column \'remark\' is not in the schema file.*"remark" = { kind = "ignore" }',
        ),
        (
            HEAD.replace("note", ""),
            'the column \'\' is not in the schema file, and has no name; to pass it over, add "" = { kind = "ignore" }',
        ),
    ],
)
def test_a_renamed_or_doubled_column_is_refused(table, head, words):
    with pytest.raises(DataError, match=rf"train.csv: {words}"):
        table(ROW, head=head)


def test_the_column_without_a_name_that_pandas_writes_or_a_delimiter_at_the_end_makes_can_be_passed_over(table):
    whole, schema = table(ROW), SCHEMA + '"" = { kind = "ignore" }\n'
    for head, row in ((f",{HEAD}", f"0,{ROW}"), (f"{HEAD},", f"{ROW},")):
        np.testing.assert_array_equal(table(row, head=head, schema=schema).train.features, whole.train.features)


def test_it_is_counted_how_often_rules_were_needed_in_the_training_records(table):
    decoded = table(
        ROW.replace("50,0,", "?,7,"), ROW.replace("50,0,north,yes", ",-7,west,?"), ROW, test=[ROW.replace("50", "?")]
    )
    assert decoded.rules == (
        RuleCounts(column="age", missing=2),
        RuleCounts(column="dose", clipped=2),
        RuleCounts(column="ward", unseen=1),
        RuleCounts(column="smoker", missing=1),
    )
    assert table(ROW).rules == ()


def test_the_whole_last_day_is_within_the_bounds(table):
    schema = SCHEMA.replace("%d.%m.%Y", "%d.%m.%Y %H:%M:%S.%f")
    last = table(ROW.replace("01.01.2020", "30.12.2020 23:59:59.999999"), schema=schema).train.features[0, -1]
    assert last == 1
    with pytest.raises(DataError, match="is outside"):
        table(ROW.replace("01.01.2020", "31.12.2020 00:00:00.0"), schema=schema)


def test_a_column_that_is_absent_is_refused(table):
    with pytest.raises(DataError, match=r"train.csv: there is no column 'ward', which is in the schema file$"):
        table("50,0,yes,01.01.2020,A,-,well", head=HEAD.replace("ward,", ""))


def test_one_file_is_not_both_training_and_test_data(table, tmp_path):
    with pytest.raises(DataError, match=r"train.csv is both training and test data"):
        table(ROW, test_path=str(tmp_path / "train.csv"), test_fraction=None)


def test_another_digest_than_that_of_the_experiment_is_refused(table):
    digest = table(ROW).info.features.schema
    table(ROW, schema_digest=digest)
    with pytest.raises(DataError, match=rf"has the digest {digest}, and data.schema_digest is {'0' * 64}"):
        table(ROW, schema_digest="0" * 64)


@pytest.fixture
def arrow(tmp_path):
    def decode(schema=SCHEMA, **columns):
        (tmp_path / "schema.toml").write_text(schema)
        pq.write_table(pa.table(columns), tmp_path / "train.parquet")
        files = {"path": str(tmp_path / "train.parquet"), "schema_file": str(tmp_path / "schema.toml")}
        return source_of("parquet").decode(Data(source="parquet", test_fraction=0.5, **files))

    return decode


COLUMNS = {
    "age": pa.array([50, None], pa.int16()),
    "dose": pa.array([decimal.Decimal("0.5"), decimal.Decimal("0.25")]),
    "ward": pa.array(["N", " south "]).dictionary_encode(),
    "smoker": pa.array([True, None]),
    "seen": pa.array([dt.date(2020, 1, 1), dt.date(2020, 7, 1)]),
    "outcome": pa.array(["well", "ill"]),
}


def test_types_of_parquet_files_mean_what_their_text_does(arrow, table):
    text = table("50,.5,N,true,01.01.2020,A,,well", ",0.25,south,,01.07.2020,A,,ill")
    typed = arrow(**COLUMNS)
    np.testing.assert_array_equal(typed.train.features, text.train.features)
    np.testing.assert_array_equal(typed.train.targets, text.train.targets)
    assert typed.info == text.info
    stamped = arrow(**COLUMNS | {"seen": pa.array(np.array(["2020-01-01", "2020-07-01T12"], "datetime64[s]"))})
    assert stamped.train.features[1, -1] == pytest.approx((182.5 / 365) * 2 - 1, abs=1e-6)
    exact = pa.array([1577836800 * 10**9 + 1, 1609372799_999999999], pa.timestamp("ns"))
    assert arrow(**COLUMNS | {"seen": exact}).train.features[:, -1].tolist() == [-1, 1]
    for unit in ("s", "ms", "us", "ns"):
        zoned = pa.array(np.array(["2020-07-01T12"] * 2, f"datetime64[{unit}]"))
        zoned = zoned.cast(pa.timestamp(unit, tz="UTC")).cast(pa.timestamp(unit, tz="Asia/Tokyo"))
        features = arrow(**COLUMNS | {"seen": zoned}).train.features
        assert features[0, -1] == stamped.train.features[1, -1]
    assert arrow(**COLUMNS | {"seen": COLUMNS["seen"].cast(pa.date64())}).train.features.tolist() == (
        typed.train.features.tolist()
    )
    whole = arrow(**COLUMNS | {"smoker": pa.array([1, 0]), "ward": pa.array(["N", None])})
    assert whole.train.features[:, 7].tolist() == [1, -1]


def test_text_in_parquet_files_is_read_like_that_of_csv_files(arrow):
    schema = SCHEMA.replace("[csv]", '[csv]\ndecimal = ","')
    text = {"age": pa.array(["?", " 7,5 "]), "ward": pa.array(["", "?"]), "seen": pa.array(["01.01.2020"] * 2)}
    features = arrow(schema=schema, **COLUMNS | text).train.features
    np.testing.assert_allclose(features[:, :2], [[-0.5, 1], [-0.85, 0]], atol=1e-7)
    assert features[:, 5:7].tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"age": pa.array([1.0, float("inf")])}, "row 1, column 'age': an infinite value is no number"),
        ({"seen": pa.array([10**15, 0], pa.timestamp("s"))}, "row 0, column 'seen': .* is outside"),
        ({"ward": pa.array([1.5, 2.5])}, r"train.parquet, column 'ward' has type double; a category, a class"),
        ({"ward": pa.array([[1], [2]])}, r"train.parquet, column 'ward' has type list"),
        ({"age": pa.array([1.0, float("nan")])}, r"train.parquet, row 1, column 'age': NaN is no number"),
        ({"age": pa.array([1, 101])}, r"train.parquet, row 1, column 'age': '101' is outside"),
        ({"outcome": pa.array(["well", None])}, r"train.parquet, row 1, column 'outcome': the value is missing"),
        ({"more": pa.array([1, 2])}, r"train.parquet: the column 'more' is not in the schema file"),
    ],
)
def test_what_does_not_fit_in_parquet_files_is_refused(arrow, changed, words):
    with pytest.raises(DataError, match=words):
        arrow(**COLUMNS | changed)


def test_a_text_of_a_parquet_file_that_is_not_utf8_is_refused(arrow):
    changed = {"ward": pa.array([b"north", b"s\xfcd"][: len(COLUMNS["ward"])]).view(pa.string())}
    with pytest.raises(DataError, match=r"row 1, column 'ward': the text is not UTF-8: byte 2"):
        arrow(**COLUMNS | changed)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_schema_of_many_columns_takes_a_time_in_proportion(tmp_path, kind):
    def seconds(columns):
        names = [f"gene {number}" for number in range(columns)]
        lines = [f'"{name}" = {{ kind = "number", lower = 0, upper = 2 }}' for name in names]
        (tmp_path / "schema.toml").write_text(
            "\n".join(["[columns]", *lines, 'label = { kind = "target", values = ["no", "yes"] }'])
        )
        values = {name: [0.5, 1.5] for name in names} | {"label": ["no", "yes"]}
        file = tmp_path / f"genes.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table(values), file)
        else:
            file.write_text(
                "".join(",".join(map(str, row)) + "\n" for row in (values, *zip(*values.values(), strict=True)))
            )
        started = time.process_time()
        decoded = source_of(kind).decode(
            Data(source=kind, path=str(file), schema_file=str(tmp_path / "schema.toml"), test_fraction=0.5)
        )
        assert decoded.info.shape == (columns,)
        return time.process_time() - started

    seconds(100)  # what is imported
    # Four times as many columns: a time that grows with their square is sixteen times as long.
    assert seconds(4000) < 9 * seconds(1000)
