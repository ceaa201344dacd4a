"""CSV files as people write them."""

import numpy as np
import pytest

from fedtrain.config import Data
from fedtrain.data.sources import source_of
from fedtrain.errors import DataError

SCHEMA = """
[csv]
{csv}

[columns]
a = {{ kind = "number", lower = 0, upper = 10 }}
b = {{ kind = "category", values = ["x", "y"], unseen = "refuse" }}
c = {{ kind = "ignore" }}
label = {{ kind = "target", values = ["no", "yes"] }}
"""
HEAD = b"a,b,c,label\n"


@pytest.fixture
def read(tmp_path):
    """Write a file of these bytes; return its features and targets."""

    def decode(*contents, csv=""):
        (tmp_path / "schema.toml").write_text(SCHEMA.format(csv=csv))
        for number, content in enumerate(contents):
            (tmp_path / f"{number}.csv").write_bytes(content)
        section = {"path": str(tmp_path / "*.csv"), "schema_file": str(tmp_path / "schema.toml"), "test_fraction": 0.5}
        train = source_of("csv").decode(Data(source="csv", **section)).train
        return [[*row.tolist(), target] for row, target in zip(train.features, train.targets.tolist(), strict=True)]

    return decode


ONE = [[0.0, 1.0, 0.0, 1]]


@pytest.mark.parametrize(
    ("content", "csv"),
    [
        (HEAD + b"5,x,,yes\n", ""),
        (HEAD + b"5,x,,yes", ""),
        (b"\xef\xbb\xbf" + HEAD + b"5,x,,yes\n", ""),
        (HEAD.replace(b"\n", b"\r\n") + b"5,x,,yes\r\n\r\n", ""),
        (b" a , b , c , label \n 5 , x , , yes \n", ""),
        (b'"a","b","c","label"\n"5","x","he said ""no"",\nand left","yes"\n', ""),
        (b"a;b;c;label\n5,0;x;1,5;yes\n", 'delimiter = ";"\ndecimal = ","'),
        (b"a\tb\tc\tlabel\n+5e0\tx\t\tyes\n", 'delimiter = "\\t"'),
        (b"a,b,c,label\n5,'x','1,2',yes\n", 'quote = "\'"'),
        (b'a,b,c,label\n5,x,5" pipe,yes\n', 'quote = ""'),
        (b"5,x,,yes\n", "header = false"),
        (b"# of 2020\n#\na,b,c,label\n005,x,,yes\n", 'comment = "#"'),
        ("a,b,c,label\n5,x,Zürich,yes\n".encode(), ""),
        (b"# of 2020\r# two\r" + HEAD.replace(b"\n", b"\r") + b"5,x,,yes\r", 'comment = "#"'),
        (HEAD + b"5,x," + b"z" * 3_000_000 + b",yes\n", ""),
        (HEAD + b'5,x,"' + b"z\n" * 1_000_000 + b'",yes\n', ""),
    ],
)
def test_a_file_is_read_as_its_schema_says(read, content, csv):
    assert read(content, csv=csv) == ONE


def test_files_are_one_table_and_order_of_columns_may_differ(read):
    assert read(HEAD + b"5,x,,yes\n", b"label,a,b\nno,10,y\n") == [*ONE, [1.0, 0.0, 1.0, 0]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0.csv is empty: it has neither"),
        (b"\xef\xbb\xbf\n \n", "0.csv is empty"),
        (HEAD, "0.csv holds no records"),
        (HEAD.strip(), "0.csv holds no records"),
        (HEAD + b"5,x,,yes\n5,x,yes\n", r"0.csv, line 3: 3 values, and 4 are expected: '5,x,yes'"),
        (HEAD + b"\n5,x,,yes\n\n5,5,x,,yes\n", r"0.csv, line 5: 5 values, and 4 are expected: '5,5,x,,yes'"),
        (HEAD + b'5,x,"1\n2",yes\n5,x\n', r"0.csv, line 4: 2 values, and 4 are expected"),
        (HEAD + b"5,5,x,,yes\n", r"line 2: 5 values, .* a value that holds ',' is to be in quotes"),
        (b"a;b;c;label\n5;x;;yes\n", r"one column, 'a;b;c;label'; if ';' is .* delimiter = ';' in"),
        (HEAD.replace(b"\n", b"\r") + b"5,x,,yes\r5,x,Z\xfcrich,yes\r", "line 3 has a byte that is not UTF-8"),
        (HEAD + b"5,x,,yes\n5,x,Z\xfcrich,yes\n", r"line 3 has a byte that is not UTF-8 \(0xfc\); save it as UTF-8"),
        ("a,b,c,label\n5,x,,yes\n".encode("utf-16"), "0.csv is in UTF-16; save it as UTF-8"),
        (HEAD + b'5,x,"open,yes\n5,x,,yes\n', r"line 2: a quote \(\"\) is not closed"),
        (HEAD + b'5,x,,yes\n5,x,,"yes', r"line 3: a quote \(\"\) is not closed"),
        (HEAD + b'5,x,,yes\n5,x,"open,yes\n5,x,,yes\n5,x,"more",no\n', r"line 3: a quote .* or text follows"),
        (HEAD + b'5,x,"a"b,yes\n', r"line 2: a quote .* or text follows the closing one"),
        (HEAD + b'5, "x",,yes\n', r"line 2, column 'b': there is a space before the quote"),
        (HEAD + b'5,"x\ny",,yes\n', r"line 2, column 'b': 'x\\ny' is none of the 2 values"),
        (HEAD + b"5,x\x00,,yes\n", r"line 2, column 'b': 'x\\x00' is none of the 2 values"),
        (HEAD + b"5,x,,yes\n5,x,,\n", r"line 3, column 'label': the value is missing"),
    ],
)
def test_a_malformed_file_is_refused_by_line(read, content, words):
    with pytest.raises(DataError, match=words):
        read(content)


def test_the_place_of_a_value_counts_lines_as_an_editor_does(read):
    content = b"# one\n# two\na,b,c,label\n\n" + b'5,x,"1\n2\n3",yes\n' * 2 + b"11,x,,yes\n"
    with pytest.raises(DataError, match=r"0.csv, line 11, column 'a': '11' is outside"):
        read(content, csv='comment = "#"')


@pytest.mark.parametrize("quote", ["", '"'])
def test_many_rows_are_read_whole(read, quote):
    rows = [
        f"{number % 11},{quote}{'xy'[number % 2]}{quote},,{'no' if number % 3 else 'yes'}" for number in range(50_000)
    ]
    found = np.array(read(HEAD + "\n".join(rows).encode()))
    assert len(found) == 50_000
    np.testing.assert_allclose(found[:, 0], np.arange(50_000) % 11 / 5 - 1, atol=1e-6)
    assert found[:, 1].sum() == 25_000


def test_a_folder_without_csv_files_is_refused(tmp_path, read):
    read(HEAD + b"5,x,,yes\n")
    section = {"schema_file": str(tmp_path / "schema.toml"), "test_fraction": 0.5}
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: the folder holds no .csv file"):
        source_of("csv").decode(Data(source="csv", path=str(tmp_path / "empty"), **section))


def test_files_of_other_systems_in_a_folder_of_csv_are_passed_over(read, tmp_path):
    alone = read(HEAD + b"5,x,,yes\n")
    for name in ("._0.csv", ".0.csv.crc", ".~lock.0.csv#", ".DS_Store", "Thumbs.db", "_SUCCESS"):
        (tmp_path / name).write_bytes(b"no data")
    section = {"schema_file": str(tmp_path / "schema.toml"), "test_fraction": 0.5}
    for path in (str(tmp_path), str(tmp_path / "*.csv"), str(tmp_path / "**" / "*.csv")):
        train = source_of("csv").decode(Data(source="csv", path=path, **section)).train
        assert [[*train.features[0].tolist(), int(train.targets[0])]] == alone, path
