from pathlib import Path

import pytest

from fedtrain.config.toml import parse_toml
from fedtrain.data.schema import read_schema, schema_of
from fedtrain.errors import DataError

TEXT = """
scale = "0 to 1"

[csv]
delimiter = ";"
missing = ["?", "NA"]

[columns]
age = { kind = "number", lower = 0, upper = 100, missing = "indicator" }
ward = { kind = "category", values = ["north", "south"], missing = "indicator" }
kind = { kind = "category", values = ["a"], unseen = "refuse" }
smoker = { kind = "boolean" }
born = { kind = "date", format = "%Y-%m-%d", lower = 1900-01-01, upper = 2020-12-31 }
site = { kind = "owner" }
note = { kind = "ignore" }
outcome = { kind = "target", values = ["well", "ill"], aliases = { healthy = "well" } }
"""


def schema(text=TEXT):
    return schema_of(parse_toml(text.encode()))


def test_features_have_names_in_the_order_of_the_file():
    found = schema()
    assert found.features == (
        "age",
        "age missing",
        "ward = north",
        "ward = south",
        "ward other",
        "ward missing",
        "kind = a",
        "smoker",
        "born",
    )
    assert found.range == (0.0, 1.0)
    assert found.target.names == ("well", "ill")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('delimiter = ";"', 'delimiter = "|"'),
        ('missing = ["?", "NA"]', 'missing = [""]'),
        ('site = { kind = "owner" }\n', ""),
        ('note = { kind = "ignore" }', 'remark = { kind = "ignore" }'),
        ("upper = 100", "upper = 100.0"),
        ('scale = "0 to 1"', '# a comment\nscale = "0 to 1"'),
    ],
)
def test_the_digest_is_of_the_meaning_alone(old, new):
    assert old in TEXT
    assert schema(TEXT.replace(old, new)).digest == schema().digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('scale = "0 to 1"', 'scale = "-1 to 1"'),
        ("upper = 100,", "upper = 120,"),
        ("upper = 100,", 'upper = 100, outside = "clip",'),
        ("upper = 100,", "upper = 100, constant = 40,"),
        ('["north", "south"]', '["south", "north"]'),
        ('["well", "ill"]', '["ill", "well"]'),
        ("2020-12-31", "2021-12-31"),
        ("smoker", "smokes"),
        ('"north", "south"], missing', '"north", "south"], unseen = "refuse", missing'),
        ('{ healthy = "well" }', '{ fine = "well" }'),
    ],
)
def test_another_meaning_has_another_digest(old, new):
    assert old in TEXT
    assert schema(TEXT.replace(old, new)).digest != schema().digest


def test_the_digest_is_known():
    text = '[columns]\nx = { kind = "number", lower = 0, upper = 1 }\ny = { kind = "target", lower = 0, upper = 2 }\n'
    assert schema(text).digest == "d508dbaab726ee0dfc8a619045a965dbd49e80226b0697a6c96e601aa7ee871c"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[columns]", "[column]", r"there is no section \[columns\]"),
        ('scale = "0 to 1"', 'scale = "0 to 2"', r"scale = '0 to 2'"),
        ('scale = "0 to 1"', "size = 3", "size = 3: extra inputs"),
        ("note = {", 'note2 = "x"\nnote = {', "columns.note2 = 'x'; write it as"),
        ('kind = "ignore"', 'kind = "ignored"', "columns.note: kind = 'ignored' is not known; did you mean ignore"),
        ('kind = "ignore"', "", "columns.note: kind = None is not known; allowed"),
        ("upper = 100,", "", "columns.age: upper = .*field required"),
        ("upper = 100,", "upper = 0,", "columns.age: lower = 0.0 is not below upper = 0.0"),
        ("upper = 100,", "upper = inf,", "columns.age: upper = inf"),
        ("upper = 100,", "upper = 100, constant = 200,", "constant = 200.0 is not between"),
        ('upper = 100, missing = "indicator"', "upper = 100, constant = 20", 'set missing = "indicator"'),
        ('"%Y-%m-%d"', '"%d %B"', "other directives than"),
        ('"%Y-%m-%d"', '"day"', "or of none"),
        ('"%Y-%m-%d"', '"%d.%m."', "names no year"),
        ('delimiter = ";"', 'quote = "d"', "quote = 'd' is a letter"),
        ('delimiter = ";"', 'quote = " "', "quote is a space"),
        ("smoker =", '"" =', "has '', which is empty"),
        ("2020-12-31", "1800-12-31", "is not below"),
        ("2020-12-31", "2020-12-31T10:00:00", "columns.born: upper"),
        ('["north", "south"]', "[]", "values has 0 categories"),
        ('["north", "south"]', '["north", "north"]', "'north' is there twice"),
        ('["north", "south"]', '["north", " south"]', "a space at an end"),
        ('["north", "south"]', '["north", "NA"]', "columns.ward has the value 'NA', which csv.missing says"),
        ('["well", "ill"]', '["well"]', "fewer than 2 classes"),
        ('{ healthy = "well" }', '{ healthy = "fine" }', "aliases has 'fine', which is none of the values"),
        ('values = ["well", "ill"], aliases = { healthy = "well" }', "lower = 0", "a target has values"),
        ('values = ["well", "ill"]', 'values = ["well", "ill"], lower = 0, upper = 1', "set either"),
        ('kind = "owner"', 'kind = "target", lower = 0, upper = 1', 'has 2 of kind = "target"'),
        ("note = {", '"ward other" = { kind = "boolean" }\nnote = {', "two features the name 'ward other'"),
        ('delimiter = ";"', 'delimiter = ";;"', "delimiter = ';;' is not one character"),
        ('delimiter = ";"', "delimiter = '\"'", "delimiter and quote are both"),
        ('delimiter = ";"', 'decimal = ";"', "csv.decimal = ';'"),
        ("[columns]", "[columns", "is not TOML"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(tmp_path, old, new, words):
    assert old in TEXT
    path = tmp_path / "schema.toml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(DataError, match=words) as caught:
        read_schema(path)
    assert str(path) in str(caught.value)


def test_a_schema_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the schema file .*nowhere.toml: No such file"):
        read_schema(tmp_path / "nowhere.toml")


def test_the_schema_of_the_census_income_data_is_that_of_its_files():
    found = read_schema(Path(__file__).parents[3] / "simulations" / "schemas" / "adult.toml")
    assert len(found.columns) == 15
    assert len(found.features) == 5 + (9 + 1) + 17 + 8 + (15 + 1) + 7 + 6 + 3 + (42 + 1)
    assert found.target.names == ("<=50K", ">50K")
