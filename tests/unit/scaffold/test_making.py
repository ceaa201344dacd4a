import ast

import pyarrow.parquet as pq
import pytest

from fedtrain.config import from_flat, read_toml
from fedtrain.config.checking import missing_files, problems
from fedtrain.data.schema import drafted_lines
from fedtrain.data.sources import source_of
from fedtrain.errors import UsageError
from fedtrain.scaffold import KINDS, make_app

MADE_UP = {".csv", ".parquet"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_is_valid_and_named_like_its_folder(kind, tmp_path, monkeypatch):
    made = make_app(tmp_path / "my-app", kind)
    assert {file.name for file in made} >= {"experiment.toml", "README.md", "test_app.py"}
    monkeypatch.chdir(tmp_path / "my-app")
    flat = read_toml(tmp_path / "my-app" / "experiment.toml")
    assert problems(flat) == ()
    assert missing_files(from_flat(flat)) == ()
    assert flat["name"] == "my-app"
    for file in made:
        if file.suffix == ".py":
            ast.parse(file.read_text())
        if file.suffix not in MADE_UP:
            assert "$" not in file.read_text()


@pytest.mark.parametrize("kind", ["text", "audio", "table"])
def test_the_made_up_records_are_the_same_each_time(kind, tmp_path):
    one, two = (
        next(tmp_path / name / file.name for file in make_app(tmp_path / name, kind) if file.suffix in MADE_UP)
        for name in ("one", "two")
    )
    assert one.read_bytes() == two.read_bytes()


def test_the_schema_that_is_made_reads_the_table_without_a_line_to_look_at(tmp_path, monkeypatch):
    make_app(tmp_path / "my-app", "table")
    monkeypatch.chdir(tmp_path / "my-app")
    data = from_flat(read_toml(tmp_path / "my-app" / "experiment.toml")).data
    decoded = source_of("csv").decode(data)
    assert {(rule.column, rule.missing > 0, rule.unseen) for rule in decoded.rules} >= {("pressure", True, 0)}
    assert abs(decoded.train.features).max() == 1
    assert drafted_lines(tmp_path / "my-app" / "schema.toml") == 0


def test_no_made_up_message_is_there_twice(tmp_path):
    make_app(tmp_path / "texts", "text")
    said = pq.read_table(tmp_path / "texts" / "messages.parquet")["message"].to_pylist()
    assert len(set(said)) == len(said)


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "my-app").mkdir()
    make_app(tmp_path / "my-app", "image")
    before = (tmp_path / "my-app/experiment.toml").read_bytes()
    with pytest.raises(UsageError, match="exists already, and is not empty"):
        make_app(tmp_path / "my-app", "custom")
    assert (tmp_path / "my-app/experiment.toml").read_bytes() == before


@pytest.mark.parametrize("name", ["-x", "a b", "ä", "x" * 65])
def test_a_name_that_is_none_for_an_experiment_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="is no name for an experiment"):
        make_app(tmp_path / name, "image")
    assert not (tmp_path / name).exists()


def test_a_kind_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(UsageError, match='no task "video" to begin with; allowed: image, text, audio, table, custom'):
        make_app(tmp_path / "x", "video")
