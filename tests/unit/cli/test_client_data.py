import re
import warnings

import numpy as np
import pytest

from fedtrain.data.schema import DRAFTED, read_schema
from fedtrain.ledger import dataset_key
from tests.federations import provisioned

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app


@pytest.fixture
def node(tmp_path):
    (node,) = provisioned(tmp_path / "federation", (4,)).nodes
    name(node, "cold, flu")
    np.savez(node.path / "records.npz", x=np.zeros((6, 2, 3), np.uint8), y=["cold", "flu", "flu", "cold", "flu", "flu"])
    return node


def name(node, classes):
    node.site.write_text(re.sub(r"classes = .*\n", f'classes = "{classes}"\n', node.site.read_text()))


def run(node):
    return CliRunner().invoke(app, ["client", "data", str(node.path)])


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "cache" not in path.parts
    }


def test_it_shows_the_records_and_their_classes_and_writes_nothing_but_the_cache(node):
    before = content(node.path)
    result = run(node)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"source: npz, {node.path}/records.npz",
        "records: 6 of kind image, shape (1, 2, 3), uint8",
        "client  cold  flu  total",
        "     0     2    4      6",
        "nothing of this left the node",
    ]
    assert content(node.path) == before


def test_classes_are_shown_in_their_order(node):
    name(node, "healthy,flu,cold")
    result = run(node)
    assert "client  healthy  flu  cold  total" in result.stdout
    assert "     0        0    4     2      6" in result.stdout


def test_labels_outside_of_the_classes_are_an_error_that_names_them(node):
    name(node, "healthy, cold")
    result = run(node)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: there are records of classes that are not in data.classes = healthy, cold: 'flu'\n"
    )


def test_a_delta_that_would_allow_publishing_a_record_is_a_warning(node):
    text = node.site.read_text()
    node.site.write_text(text.replace("delta = 1e-3", "delta = 0.17"))
    assert "warning: [budget] delta = 0.17 is not below 1 / 6" in run(node).stdout
    node.site.write_text(text.replace("delta = 1e-3", "delta = 0.16"))
    assert "warning" not in run(node).stdout


def test_without_classes_it_says_what_to_write(node):
    node.site.write_text(re.sub(r"classes = .*\n", "", node.site.read_text()))
    result = run(node)
    assert result.exit_code == 0
    assert 'without them nothing is trained: add classes = "cold, flu", or as many' in result.stdout


def test_the_columns_of_a_table_are_shown(node):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"age": [1.0, 2.0], "weight": [3.0, 4.0], "ill": [0, 1]})
    pq.write_table(table, node.path / "records.parquet")
    data = '[data]\nsource = "parquet"\npath = "records.parquet"\nlabel_column = "ill"\n'
    node.site.write_text(node.site.read_text().replace('[data]\nsource = "npz"\npath = "records.npz"\n', data))
    name(node, "0, 1")
    assert "feature_columns is not set" in run(node).stderr
    node.site.write_text(node.site.read_text().replace(data, f'{data}feature_columns = "weight, age"\n'))
    result = run(node)
    assert "columns: weight, age; label: ill\nrecords: 2 of kind table, shape (2,), float32\n" in result.stdout


def test_the_digest_of_a_schema_file_is_shown(node):
    schema = (
        '[columns]\nage = { kind = "number", lower = 0, upper = 9 }\nill = { kind = "target", values = ["n", "y"] }\n'
    )
    (node.path / "schema.toml").write_text(schema)
    (node.path / "records.csv").write_text("age,ill\n1,n\n2,y\n3,y\n")
    text = re.sub(r"classes = .*\n", 'schema_file = "schema.toml"\n', node.site.read_text())
    node.site.write_text(text.replace('"npz"', '"csv"').replace("records.npz", "records.csv"))
    result = run(node)
    assert result.exit_code == 0, result.output
    digest = read_schema(node.path / "schema.toml").digest
    assert f"schema: {node.path}/schema.toml, data.schema_digest = {digest}\n" in result.stdout
    assert "client  n  y  total" in result.stdout
    assert "warning: [data] names no classes" not in result.stdout


@pytest.fixture
def table(node):
    """Give a node whose records are a table by a schema that was drafted."""
    (node.path / "schema.toml").write_text(
        '[columns]\nage = { kind = "number", lower = 0, upper = 9, outside = "clip", missing = "indicator" }'
        f'  # {DRAFTED}\nward = {{ kind = "category", values = ["1", "2"] }}\n'
        'ill = { kind = "target", values = ["n", "y"] }\n'
    )
    (node.path / "records.csv").write_text("age,ward,ill\n,1.0,n\n12,2.0,y\n3,1,y\n")
    text = re.sub(r"classes = .*\n", 'schema_file = "schema.toml"\n', node.site.read_text())
    node.site.write_text(text.replace('"npz"', '"csv"').replace("records.npz", "records.csv"))
    return node


def test_it_is_shown_how_often_rules_were_needed_and_what_is_still_as_drafted(table):
    first, again = run(table), run(table)
    assert first.exit_code == 0, first.output
    assert again.stdout == first.stdout  # the second time out of the cache
    assert "column age: 1 missing, 1 clipped, of 3\ncolumn ward: 2 not listed, of 3\n" in first.stdout
    assert "warning: most values of column ward are none of those that the schema file lists" in first.stdout
    assert "most values of column age" not in first.stdout
    assert "warning: 1 lines of the schema file are still marked as drafted from data" in first.stdout
    schema = table.path / "schema.toml"
    schema.write_text(schema.read_text().replace(f"  # {DRAFTED}", ""))
    assert "drafted" not in run(table).stdout


def test_records_that_would_begin_another_ledger_are_a_warning(table):
    assert "no ledger" not in run(table).stdout
    dataset_key(table.path / "dataset.key")
    (table.path / "ledgers").mkdir()
    (table.path / "ledgers" / f"{'0' * 64}.jsonl").touch()
    assert "warning: these records have no ledger, and this node has 1 of other records" in run(table).stdout


def test_the_column_of_an_image_is_shown(node):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(buffer, "PNG")
    pq.write_table(pa.table({"img": [{"bytes": buffer.getvalue()}], "label": [0]}), node.path / "records.parquet")
    node.site.write_text(node.site.read_text().replace('"npz"', '"parquet"').replace("records.npz", "records.parquet"))
    name(node, "0")
    assert "columns: the first image column; label: label\n" in run(node).stdout


def test_the_column_of_a_sound_is_shown_and_how_many_are_padded_and_cut(node):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.sounds import tone, wav

    audio = [{"bytes": wav(tone(300, seconds))} for seconds in (0.1, 0.2, 0.3)]
    pq.write_table(pa.table({"said": audio, "label": [0, 0, 0]}), node.path / "records.parquet")
    text = node.site.read_text().replace('"npz"', '"parquet"\nsample_rate = 8000\nseconds = 0.2')
    node.site.write_text(text.replace("records.npz", "records.parquet"))
    name(node, "0")
    assert (
        "columns: the first column of files; label: label\n"
        "records: 3 of kind audio, shape (1600,), float32\n"
        "lengths: 1 of 3 sounds are shorter than 0.2 s and were padded with silence, 1 are longer and were cut\n"
    ) in run(node).stdout


def test_a_function_of_the_sites_own_is_shown_by_its_name(node):
    (node.path / "own.py").write_text("def load():\n    return [[1.0], [2.0]], ['a', 'b']\n")
    node.site.write_text(node.site.read_text().replace('"npz"', '"own:load"').replace('path = "records.npz"\n', ""))
    name(node, "a, b")
    assert run(node).stdout.startswith("source: own:load\nrecords: 2 of kind table, shape (1,), float32\n")


def test_a_site_file_without_data_says_so(node):
    node.site.write_text("[budget]\nepsilon = 1.0\ndelta = 1e-3\n")
    result = run(node)
    assert result.exit_code == 2
    assert "has no [data], which says where the records are" in result.stderr


def test_a_folder_that_is_no_nodes_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["client", "data", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not the folder of a node" in result.stderr


def test_unscaled_columns_are_said_to_the_site_alone(node):
    np.savez(node.path / "records.npz", x=np.array([[1, 99], [2, 77516.0], [3, 5]]), y=["cold", "flu", "flu"])
    result = run(node)
    assert result.exit_code == 0, result.output
    assert "warning: 1 of 2 columns have values beyond 100 in size, of which the first is number 2" in result.stdout
