"""De-identification of columns of texts: what is found, what is written, and what is refused before a text is read."""

import csv
import json
import resource
import sys
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedtrain.deidentification import DEFAULT, deidentify, engine, known
from fedtrain.deidentification.engine import Deidentifier
from fedtrain.deidentification.entities import PATTERNS, policy_of
from fedtrain.errors import ConfigError, DataError, StorageError


@pytest.fixture(scope="module", autouse=True)
def presidio():
    """Import Presidio where a test runs: it takes seconds, and collecting tests needs none of it."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        import presidio_analyzer  # noqa: F401 - spaCy imports typer, which imports what click deprecates


@pytest.fixture(scope="module")
def every():
    """Return a de-identifier of all that patterns find."""
    return Deidentifier(tuple(PATTERNS))


@pytest.mark.parametrize("name", PATTERNS)
def test_each_entity_of_the_patterns_is_found_in_its_test_sentence(every, name):
    probe = PATTERNS[name]
    text, counts = every.replaced(probe.probe)
    assert text == probe.probe.replace(probe.found, f"<{name}>")
    assert counts == {name: 1}


def test_the_default_policy_is_of_entities_that_are_found():
    assert set(DEFAULT) <= set(PATTERNS)
    assert policy_of((), has_model=False) == DEFAULT
    assert policy_of((), has_model=True) == (*DEFAULT, "PERSON", "LOCATION")
    assert policy_of(("URL", "URL"), has_model=False) == ("URL",)


def test_what_it_misses_is_as_the_documentation_says(every):
    for text in ("Jane Roe, aged 93, lives in Leeds.", "ring 8 twice", "her number ends in 0958"):
        assert every.replaced(text) == (text, {})


def test_a_phone_number_needs_no_word_beside_it(every):
    scores = {text: [each.score for each in every._found(text)] for text in ("212-555-0123", "call 212-555-0123")}
    assert scores["212-555-0123"] == scores["call 212-555-0123"] == [0.4]


def test_an_entity_that_is_not_found_in_its_test_sentence_is_refused(monkeypatch):
    probe = PATTERNS["URL"]
    broken = type(probe)(recognizer=probe.recognizer, probe="See www example org.", found="www example org")
    monkeypatch.setitem(PATTERNS, "URL", broken)
    with pytest.raises(ConfigError, match="URL is not found in its own test sentence"):
        Deidentifier(("URL",))


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        (("AGE",), "Presidio lists it, and no recognizer of it finds any"),
        (("email_adress",), "did you mean EMAIL_ADDRESS"),
        (("PERSON",), "found only by a spaCy model"),
    ],
)
def test_a_policy_that_finds_nothing_is_refused(entities, message):
    with pytest.raises(ConfigError, match=message):
        policy_of(entities, has_model=False)
    assert "AGE" not in known()


def written(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


ROWS = [
    ["id", "text", "class"],
    ["007", "write to jane.roe@example.org, or ring +44 20 7946 0958", "a"],
    [" 8 ", 'quoted "words",\nand a line', "b"],
    ["9", "", "größer"],
]


@pytest.fixture(scope="module")
def mail():
    """Give two entities, so that tests of files are fast."""
    return ("EMAIL_ADDRESS", "PHONE_NUMBER")


def test_a_csv_file_is_written_again_with_all_else_as_it_was(tmp_path, mail):
    source = written(tmp_path / "in.csv", ROWS)
    before = source.read_bytes()
    done = deidentify(source, tmp_path / "out.csv", column="text", entities=mail)
    assert (done.rows, done.changed, done.replaced) == (3, 1, {"EMAIL_ADDRESS": 1, "PHONE_NUMBER": 1})
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.reader(file))
    expected = [list(row) for row in ROWS]
    expected[1][1] = "write to <EMAIL_ADDRESS>, or ring <PHONE_NUMBER>"
    assert found == expected
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_stays_and_so_do_blank_lines(tmp_path, mail, delimiter):
    lines = ["id;text;more", "", '7;"a; b@example.org";1,5', "", "", "8;c@example.org;", ""]
    kept = ["id;text;more", "", '7;"a; <EMAIL_ADDRESS>";1,5', "", "", "8;<EMAIL_ADDRESS>;", ""]
    source = tmp_path / "in.csv"
    source.write_text("\r\n".join(lines).replace(";", delimiter), newline="")
    done = deidentify(source, tmp_path / "out.csv", column="text", delimiter=delimiter, entities=mail)
    assert (done.rows, done.changed) == (2, 2)
    assert (tmp_path / "out.csv").read_bytes().decode() == "\n".join(kept).replace(";", delimiter)


def test_in_a_table_of_one_column_an_empty_text_and_a_blank_line_stay_apart(tmp_path, mail):
    (tmp_path / "in.csv").write_text('text\n\n""\n \na@example.org\n')
    done = deidentify(tmp_path / "in.csv", tmp_path / "out.csv", column="text", entities=mail)
    assert (done.rows, done.changed) == (3, 1)
    assert (tmp_path / "out.csv").read_text() == 'text\n\n""\n \n<EMAIL_ADDRESS>\n'


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_parquet_file_keeps_its_types_and_what_is_missing(tmp_path, mail, kind):
    texts = ["mail a.b@example.org", None, "nothing"] * 700
    table = pa.table({"n": pa.array(range(2100), pa.int16()), "text": pa.array(texts).cast(kind)})
    table = table.replace_schema_metadata({"made": "here"})
    pq.write_table(table, tmp_path / "in.parquet")
    done = deidentify(tmp_path / "in.parquet", tmp_path / "out.parquet", column="text", entities=mail)
    assert (done.rows, done.changed, done.replaced["EMAIL_ADDRESS"]) == (2100, 700, 700)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.equals(table.schema, check_metadata=True)
    assert found["n"].equals(table["n"])
    assert found["text"].to_pylist() == ["mail <EMAIL_ADDRESS>", None, "nothing"] * 700


def refused(tmp_path, name, content, message, error=DataError, out=None, **settings):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        pq.write_table(content, path)
    before = sorted(tmp_path.iterdir())
    out = path.with_stem("out") if out is None else out
    with pytest.raises(error, match=message):
        deidentify(path, out, **({"column": "text", "entities": ("EMAIL_ADDRESS",)} | settings))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b"id,words\n1,a\n", "has no column 'text'; it has: id, words"),
        ("in.csv", b"text,text\na,b\n", "2 columns are named 'text'"),
        ("in.csv", b"id,text\n1\n", "line 2: 1 values, and there are 2 columns"),
        ("in.csv", b"id,text\n1,a,b\n", "line 2: 3 values, and there are 2 columns"),
        ("in.csv", b'id,text\n1,"open\n', "line 2: cannot be read as CSV"),
        ("in.csv", b'id,text\n1,"a\nb"\n2,"open\n3,a\n', "line 4: cannot be read as CSV"),
        ("in.csv", b'id,text\n1,"a"b\n', "line 2: cannot be read as CSV"),
        ("in.csv", "id,text\n1,grün\n".encode("latin-1"), r"line 2 has a byte that is not UTF-8 \(0xfc\); save"),
        ("in.csv", "id,text\n1,a\n".encode("utf-16"), r"line 1 has a byte that is not UTF-8 \(0xff\)"),
        ("in.csv", b"", "holds no row of names$"),
        ("in.csv", b"\nid,text\n1,a\n", "holds no row of names, which is the first line"),
        (
            "in.csv",
            b"id;text\n1;a\n",
            "it has: id;text. That is one column, with ',' between values: --delimiter names",
        ),
        ("in.csv", b"id,text\n1,a\n  \n", "line 3: 1 values, and there are 2 columns"),
        ("in.csv", None, "there is no such file"),
        ("in.txt", b"text\na\n", r"told by its suffix; allowed: \.csv, \.parquet"),
        ("in.parquet", pa.table({"text": [1, 2]}), "has type int64, and texts are to be de-identified"),
        ("in.parquet", pa.table({"text": [["a"]]}), "has type list"),
        ("in.parquet", pa.table({"id": [1]}), "has no column 'text'"),
        ("in.parquet", b"PAR1 not at all", "cannot be read as a Parquet file"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_and_nothing_is_left(tmp_path, name, content, message):
    refused(tmp_path, name, content, message)


@pytest.mark.parametrize(
    ("name", "content", "delimiter", "message"),
    [
        *(("in.csv", b"text\na\n", sign, "it is one character of ASCII") for sign in (";;", "", "\n", "x", "§", '"')),
        ("in.parquet", pa.table({"text": ["a"]}), ";", "is of a CSV file, and .* is none"),
    ],
)
def test_a_delimiter_that_cannot_be_one_is_refused(tmp_path, name, content, delimiter, message):
    refused(tmp_path, name, content, message, ConfigError, delimiter=delimiter)


def test_nothing_is_overwritten_and_the_new_file_is_of_the_same_kind(tmp_path):
    content = b"text\na@example.org\n"
    refused(tmp_path, "in.csv", content, "nothing is overwritten", ConfigError, out=tmp_path / "in.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "in.csv")
    refused(tmp_path, "in.csv", content, "nothing is overwritten", ConfigError, out=tmp_path / "link.csv")
    refused(tmp_path, "in.csv", content, r"is to be a \.csv file", ConfigError, out=tmp_path / "out.parquet")
    refused(tmp_path, "in.csv", content, "cannot write", StorageError, out=tmp_path / "none" / "out.csv")
    assert (tmp_path / "in.csv").read_bytes() == content


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_a_text_of_a_parquet_file_that_is_not_utf8_is_refused_without_a_word_of_it(tmp_path, kind):
    texts = pa.array([b"good", b"\xffJane"]).cast(pa.large_binary()).view(pa.large_string())
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = texts.cast(plain)
    content = pa.table({"text": texts.dictionary_encode().cast(kind) if plain != kind else texts})
    # Of a dictionary Arrow says it by itself.
    message = r"in\.parquet.*(rows 1 to 2: a text is not UTF-8: byte 1 of it|Invalid UTF8 payload)"
    refused(tmp_path, "in.parquet", content, message)
    with pytest.raises(DataError) as told:
        deidentify(tmp_path / "in.parquet", tmp_path / "o.parquet", column="text", entities=("EMAIL_ADDRESS",))
    assert "Jane" not in f"{told.value} {told.value.__cause__}"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_nobody_can_read_the_new_file_who_cannot_read_the_old_one(tmp_path, mail, kind):
    source = tmp_path / f"in.{kind}"
    written(source, ROWS) if kind == "csv" else pq.write_table(pa.table({"text": ["a"]}), source)
    for mode in (0o600, 0o640):
        source.chmod(mode)
        out = tmp_path / f"out-{mode:o}.{kind}"
        deidentify(source, out, column="text", entities=mail)
        assert out.stat().st_mode & 0o777 & ~mode == 0
        assert out.stat().st_mode & 0o600 == 0o600


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_disk_that_is_full_leaves_nothing(tmp_path, kind):
    rows = [f"{row} {row**3} words" for row in range(3000)]
    source = tmp_path / f"in.{kind}"
    if kind == "csv":
        written(source, [["text"], *([row] for row in rows)])
    else:
        pq.write_table(pa.table({"text": rows}), source)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            deidentify(source, tmp_path / f"out.{kind}", column="text", entities=("MAC_ADDRESS",))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language": "de"}, "needs a spaCy model of that language"),
        ({"model": "no_such_model"}, "no spaCy model of that name is installed.*fedtrain downloads none"),
        ({"entities": ("AGE",)}, "no recognizer of it finds any"),
    ],
)
def test_a_policy_a_language_or_a_model_that_cannot_be_used_is_refused(tmp_path, settings, message):
    refused(tmp_path, "in.csv", b"text\na\n", message, ConfigError, **settings)


def test_without_presidio_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    refused(tmp_path, "in.csv", b"text\na\n", r"pip install 'fedtrain\[deid\]'", ConfigError)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the folder of a spaCy model that knows one name by a rule, as a trained one does by weights."""
    import spacy

    nlp = spacy.blank("de")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PER", "pattern": "Erika Mustermann"}, {"label": "MISC", "pattern": "Goethe"}])
    folder = tmp_path_factory.mktemp("model") / "names"
    nlp.to_disk(folder)
    return str(folder)


def test_a_model_that_is_installed_finds_names_in_its_language(model, tmp_path):
    found = Deidentifier(("PERSON", "EMAIL_ADDRESS"), model=model, language="de")
    text, counts = found.replaced("Erika Mustermann las Goethe, erika@example.org")
    assert text == "<PERSON> las Goethe, <EMAIL_ADDRESS>"
    assert counts == {"PERSON": 1, "EMAIL_ADDRESS": 1}
    with pytest.raises(ValueError, match="the model takes at most"):
        found.replaced("a" * (found._most + 1))


@pytest.mark.parametrize(
    ("entities", "language", "message"),
    [
        (("PERSON",), "en", 'is of the language "de"; set --language de'),
        ((), "de", "has no label for LOCATION: it has MISC, PER"),
    ],
)
def test_a_model_that_cannot_find_what_the_policy_names_is_refused(model, entities, language, message):
    with pytest.raises(ConfigError, match=message):
        Deidentifier(entities, model=model, language=language)


def test_no_list_and_no_model_is_fetched(every, monkeypatch):
    import socket

    import tldextract.tldextract as suffixes

    monkeypatch.setattr(socket, "socket", None)
    assert suffixes.TLD_EXTRACTOR.suffix_list_urls == ()
    assert every.replaced("a@b.example.co.uk")[1] == {"EMAIL_ADDRESS": 1}
    assert engine.LEAST == 0.35


def call(*arguments):
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        from typer.testing import CliRunner

        from fedtrain.cli.app import app
    return CliRunner().invoke(app, ["data", "deidentify", *map(str, arguments)])


def test_the_command_says_what_it_replaced_and_what_it_misses(tmp_path):
    source = written(tmp_path / "in.csv", ROWS)
    fixed = (source, "--column", "text", "--entity", "EMAIL_ADDRESS")
    result = call(*fixed, "--out", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    assert "1 of 3 texts are changed\n  EMAIL_ADDRESS: 1\n" in result.stdout
    assert "names and places stay" in result.stdout
    assert "no anonymisation and no differential privacy" in result.stdout
    answer = json.loads(call(*fixed, "--out", tmp_path / "two.csv", "--json").stdout)
    assert (answer["rows"], answer["changed"], answer["replaced"]) == (3, 1, {"EMAIL_ADDRESS": 1})
    assert call(*fixed, "--out", tmp_path / "three.csv", "--quiet").stdout == ""
    again = call(*fixed, "--out", tmp_path / "out.csv")
    assert (again.exit_code, again.stdout) == (2, "")
    assert "nothing is overwritten" in again.stderr
    missing = call(source, "--column", "none", "--out", tmp_path / "four.csv")
    assert missing.exit_code == 2
    assert "has no column 'none'" in missing.stderr
