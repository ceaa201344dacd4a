"""Groups of test records: read by a column that is no feature, and kept with the records that are drawn."""

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from fedtrain.config import Data
from fedtrain.data import open_store, open_test
from fedtrain.errors import DataError

SCHEMA = """
[csv]
missing = ["?"]
[columns]
age = { kind = "number", lower = 0, upper = 1000 }
site = { kind = "owner" }
outcome = { kind = "target", values = ["well", "ill"] }
"""


def table(folder, name, rows, **columns):
    path = folder / name
    plain = {"age": [float(row) for row in rows], "label": [row % 2 for row in rows]}
    pq.write_table(pa.table(plain | columns), path)
    return str(path)


def section(folder, **fields):
    return Data(**({"source": "parquet", "cache": str(folder / "cache"), "group_column": "site"} | fields))


def test_the_test_records_alone_have_groups_and_the_column_is_no_feature(tmp_path):
    train = table(tmp_path, "train.parquet", range(10))
    test = table(tmp_path, "test.parquet", range(20, 26), site=["b", "a", "b", "c", "a", "b"])
    store = open_store(section(tmp_path, path=train, test_path=test), seed=0)
    assert store.info.columns == ("age",)
    assert store.groups == ("a", "b", "c")
    assert store.test.groups.tolist() == [1, 0, 1, 2, 0, 1]
    assert store.train.groups is None
    again = open_store(section(tmp_path, path=train, test_path=test), seed=0)  # from the cache
    assert (again.groups, again.test.groups.tolist()) == (store.groups, [1, 0, 1, 2, 0, 1])


def test_a_column_can_be_a_feature_and_name_the_groups(tmp_path):
    train = table(tmp_path, "train.parquet", range(4), sex=[0, 1, 1, 0])
    test = table(tmp_path, "test.parquet", range(3), sex=[1, 0, 1])
    fields = {"path": train, "test_path": test, "group_column": "sex", "feature_columns": "age, sex"}
    store = open_store(section(tmp_path, **fields), seed=0)
    assert store.info.columns == ("age", "sex")
    assert (store.groups, store.test.groups.tolist()) == (("0", "1"), [1, 0, 1])


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_records_that_are_held_out_keep_their_groups(tmp_path, kind):
    ages, outcomes = list(range(300)), [("well", "ill")[row % 2] for row in range(300)]
    sites = ["north" if age < 200 else "south" for age in ages]
    (tmp_path / "schema.toml").write_text(SCHEMA)
    rows = ["age,site,outcome", *map(",".join, zip(map(str, ages), sites, outcomes, strict=True))]
    (tmp_path / "people.csv").write_text("\n".join(rows))
    pq.write_table(pa.table({"age": ages, "site": sites, "outcome": outcomes}), tmp_path / "people.parquet")
    fields = {"source": kind, "path": str(tmp_path / f"people.{kind}"), "test_fraction": 0.2}
    fields["schema_file"] = str(tmp_path / "schema.toml")
    store = open_store(section(tmp_path, **fields), seed=3)
    found = (store.test.features[:, 0] + 1) * 500
    assert len(store.test) == 60
    assert [store.groups[code] for code in store.test.groups] == [
        "north" if age < 199.5 else "south" for age in found.tolist()
    ]


def test_a_group_that_no_drawn_record_is_of_has_no_name(tmp_path):
    sites = ["rare", *["often"] * 99]
    path = table(tmp_path, "all.parquet", range(100), site=sites)
    stores = [open_store(section(tmp_path, path=path, test_fraction=0.1), seed=seed) for seed in range(12)]
    assert {store.groups for store in stores} >= {("often",)}
    for store in stores:
        assert np.unique(store.test.groups).tolist() == list(range(len(store.groups)))


def test_the_server_of_a_deployment_has_groups_and_sites_need_none(tmp_path):
    test = table(tmp_path, "test.parquet", range(4), site=["b", "a", "b", "a"])
    fields = {"test_path": test, "classes": "0, 1", "feature_columns": "age"}
    store = open_test(section(tmp_path, **fields))
    assert (store.groups, store.test.groups.tolist()) == (("a", "b"), [1, 0, 1, 0])
    assert open_test(section(tmp_path, **fields)).groups == ("a", "b")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, 'has no column "site", which data.group_column names; it has: age, label'),
        ({"site": ["a", None, "b"]}, "row 1: there is no value in data.group_column"),
        ({"site": ["a", "", "b"]}, "row 1: there is no value"),
        ({"site": [0.5, 1.5, 2.5]}, "has type double, and groups are texts or whole numbers"),
        ({"site": [["a"], ["b"], ["c"]]}, "groups are texts or whole numbers"),
        ({"site": [b"a", b"b", b"c"]}, "has type binary, and groups are texts"),
        ({"site": [date(2020, 1, 1)] * 3}, "groups are texts or whole numbers"),
        ({"site": pa.array([0.5, 1.5, 0.5]).dictionary_encode()}, "has type double"),
        ({"site": pa.array([None] * 3)}, "row 0: there is no value"),
        ({"site": ["a", "  ", "b"]}, "row 1: there is no value"),
        ({"site": ["a", "b", "x" * 201]}, "row 2: data.group_column .* 201 characters.*at most 200"),
        ({"site": pa.array([b"a", b"b", b"\xff"]).view(pa.string())}, "row 2, column 'site': the text is not UTF-8"),
    ],
)
def test_a_column_that_does_not_name_a_group_of_each_record_is_refused(tmp_path, columns, message):
    train = table(tmp_path, "train.parquet", range(4))
    test = table(tmp_path, "test.parquet", range(3), **columns)
    with pytest.raises(DataError, match=message):
        open_store(section(tmp_path, path=train, test_path=test), seed=0)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["a", "a\0", "b"], ("a", "a\0", "b")),
        ([" a", "a ", "a"], ("a",)),
        ([True, False, True], ("false", "true")),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b")),
        (pa.array(["b", "a", "b"], pa.string_view()), ("a", "b")),
        (pa.array([2**63, 1, 2], pa.uint64()), ("1", "2", "9223372036854775808")),
    ],
)
def test_the_names_are_what_a_person_reads_in_the_column(tmp_path, values, names):
    train = table(tmp_path, "train.parquet", range(4))
    test = table(tmp_path, "test.parquet", range(3), site=values)
    assert open_store(section(tmp_path, path=train, test_path=test), seed=0).groups == names


def test_long_names_of_many_groups_take_no_memory_of_their_product(tmp_path):
    train = table(tmp_path, "train.parquet", range(4))
    sites = ["x" * 200, *(f"s{row}" for row in range(9_999))]
    test = table(tmp_path, "test.parquet", range(10_000), site=sites)
    store = open_store(section(tmp_path, path=train, test_path=test), seed=0)
    assert [store.groups[code] for code in store.test.groups] == sites


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_spaces_around_a_name_are_no_part_of_it(tmp_path, kind):
    (tmp_path / "schema.toml").write_text(SCHEMA)
    sites = ["a ", " a", "a", "b"] * 25
    rows = ["age,site,outcome", *(f"{row},{site},{('well', 'ill')[row % 2]}" for row, site in enumerate(sites))]
    (tmp_path / "people.csv").write_text("\n".join(rows))
    columns = {"age": range(100), "site": sites, "outcome": [("well", "ill")[row % 2] for row in range(100)]}
    pq.write_table(pa.table(columns), tmp_path / "people.parquet")
    fields = {"source": kind, "path": str(tmp_path / f"people.{kind}"), "test_fraction": 0.5}
    store = open_store(section(tmp_path, schema_file=str(tmp_path / "schema.toml"), **fields), seed=0)
    assert store.groups == ("a", "b")


def test_a_missing_word_of_the_schema_is_no_group(tmp_path):
    (tmp_path / "schema.toml").write_text(SCHEMA)
    (tmp_path / "people.csv").write_text("age,site,outcome\n1,a,well\n2,?,ill\n")
    fields = {"source": "csv", "path": str(tmp_path / "people.csv"), "test_fraction": 0.5}
    with pytest.raises(DataError, match=r"people\.csv, line 3: there is no value"):
        open_store(section(tmp_path, schema_file=str(tmp_path / "schema.toml"), **fields), seed=0)


def test_sources_without_columns_are_refused_in_the_configuration():
    with pytest.raises(ValidationError, match='source = "digits" reads none; allowed: "parquet", "csv"'):
        Data(group_column="site")
