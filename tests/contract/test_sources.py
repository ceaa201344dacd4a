"""What every source keeps to. A new source needs a row in ``ROWS``."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedtrain.config import Data, Partition
from fedtrain.data import open_store
from fedtrain.data.sources import register, registered, source_of
from fedtrain.errors import DataError
from tests.sounds import tone, wav

SOUND = {"sample_rate": 8000, "seconds": 0.1}
LABELS = ["ant", "bee", "bee", "ant", "cow", "cow"]


def pixels(row):
    return np.full((3, 4), 40 * row, dtype=np.uint8)


def write_parquet(folder, rows):
    table = pa.table({"a": [float(row) for row in rows], "label": [LABELS[row] for row in rows]})
    pq.write_table(table, folder)
    return str(folder)


def parquet(folder):
    train, test = write_parquet(folder / "train.parquet", range(6)), write_parquet(folder / "test.parquet", range(2, 6))
    return {"path": train, "test_path": test}, [train, test]


def csv(folder):
    """Write what `parquet` writes, as CSV, and the schema file."""
    (folder / "schema.toml").write_text(
        '[columns]\na = { kind = "number", lower = 0, upper = 5 }\n'
        'label = { kind = "target", values = ["ant", "bee", "cow"] }\n'
    )
    paths = [str(folder / name) for name in ("train.csv", "test.csv", "schema.toml")]
    for path, rows in zip(paths, (range(6), range(2, 6)), strict=False):
        Path(path).write_text("a,label\n" + "".join(f"{row},{LABELS[row]}\n" for row in rows))
    return {"path": paths[0], "test_path": paths[1], "schema_file": paths[2]}, paths


def npz(folder):
    paths = [str(folder / name) for name in ("train.npz", "test.npz")]
    for path, rows in zip(paths, (range(6), range(2, 6)), strict=True):
        np.savez(path, x=np.array([[row] for row in rows], np.float32), y=np.array([LABELS[row] for row in rows]))
    return {"path": paths[0], "test_path": paths[1]}, paths


def images(folder):
    written = []
    for name, rows in (("train", range(6)), ("test", range(2, 6))):
        for row in rows:
            file = folder / name / LABELS[row] / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            Image.fromarray(pixels(row)).save(buffer, "PNG")
            file.write_bytes(buffer.getvalue())
            written.append(str(file))
    return {"path": str(folder / "train"), "test_path": str(folder / "test")}, written


def sounds(folder):
    written = []
    for name, rows in (("train", range(6)), ("test", range(2, 6))):
        for row in rows:
            file = folder / name / LABELS[row] / f"{row}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(wav(tone(200 + 100 * row, 0.1)))
            written.append(str(file))
    return {"path": str(folder / "train"), "test_path": str(folder / "test"), **SOUND}, written


def hub(folder):
    files = [
        write_parquet(folder / f"{name}.parquet", rows) for name, rows in (("train", range(6)), ("test", range(4)))
    ]
    return {"dataset": str(folder)}, files


ROWS = {
    "digits": lambda folder: ({}, []),
    "parquet": parquet,
    "csv": csv,
    "npz": npz,
    "images": images,
    "sounds": sounds,
    "hub": hub,
}
NAMING = [row for row in ROWS if row != "digits"]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    for name, value in (("HF_HUB_OFFLINE", "1"), ("HF_HOME", str(tmp_path / "hf")), ("FEDTRAIN_CACHE", str(tmp_path))):
        monkeypatch.setenv(name, value)


@pytest.fixture
def made(tmp_path):
    """Write what a source reads; return the section that names it, and the files."""

    def make(kind, **fields):
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        section, files = ROWS[kind](folder)
        return Data(source=kind, **(section | fields)), files

    return make


def test_every_source_but_that_of_objects_has_a_row():
    assert {source.kind for source in registered()} == {*ROWS, "object"}


def test_every_source_of_the_configuration_is_registered():
    assert set(Data.model_fields["source"].annotation.__args__) == {source.kind for source in registered()}


@pytest.mark.parametrize("source", registered(), ids=lambda source: source.kind)
def test_a_kind_is_registered_once(source):
    assert source_of(source.kind) is source
    with pytest.raises(ValueError, match=f"a source '{source.kind}' is registered already"):
        register(source)


@pytest.mark.parametrize("kind", ROWS)
def test_records_are_as_their_facts_say(made, kind):
    data, _ = made(kind)
    decoded = source_of(kind).decode(data)
    for split in (decoded.train, decoded.test):
        if split is None:
            assert source_of(kind).held_out is not None
            continue
        assert split.features.shape == (len(split.targets), *decoded.info.shape)
        assert split.features.dtype == np.dtype(decoded.info.features.dtype)
        assert split.targets.dtype == np.dtype(decoded.info.target.dtype)
        assert split.features.flags["C_CONTIGUOUS"]
        assert set(np.unique(split.targets)) <= set(range(len(decoded.info.classes)))
    assert len(decoded.train) > 0


@pytest.mark.parametrize("kind", ROWS)
def test_the_same_files_give_the_same_arrays(made, kind):
    data, _ = made(kind)
    one, other = source_of(kind).decode(data), source_of(kind).decode(data)
    assert one.info == other.info
    np.testing.assert_array_equal(one.train.features, other.train.features)
    np.testing.assert_array_equal(one.train.targets, other.train.targets)


@pytest.mark.parametrize("kind", NAMING)
def test_a_class_has_one_number_in_training_and_test_records(made, kind):
    data, _ = made(kind)
    decoded = source_of(kind).decode(data)
    assert decoded.info.classes == ("ant", "bee", "cow")
    known = {
        record.tobytes(): label for record, label in zip(decoded.train.features, decoded.train.targets, strict=True)
    }
    assert [known[record.tobytes()] for record in decoded.test.features] == decoded.test.targets.tolist()
    assert len(known) == 6


@pytest.mark.parametrize("kind", ROWS)
def test_every_file_that_is_read_is_one_that_the_cache_depends_on(made, kind):
    data, written = made(kind)
    assert sorted(map(str, source_of(kind).files(data))) == sorted(written)


@pytest.mark.parametrize("kind", NAMING)
def test_a_file_that_changed_is_read_again(made, kind):
    data, written = made(kind)
    before = open_store(data, seed=0).folder
    assert open_store(data, seed=0).folder == before
    os.utime(written[0], ns=(1, 1))
    assert open_store(data, seed=0).folder != before


@pytest.mark.parametrize("kind", NAMING)
def test_what_is_not_there_is_refused_in_words(made, tmp_path, kind):
    data, _ = made(kind)
    field = "dataset" if kind == "hub" else "path"
    with pytest.raises(DataError, match=r"nowhere"):
        source_of(kind).decode(data.model_copy(update={field: str(tmp_path / "nowhere")}))


@pytest.mark.parametrize("kind", ["digits", "images", "sounds"])
def test_a_source_that_names_no_owners_refuses_their_column(made, kind):
    data, _ = made(kind, partition=Partition(kind="natural", column="who"))
    with pytest.raises(DataError, match=r"partition.column = 'who'"):
        source_of(kind).decode(data)


@pytest.mark.parametrize("source", [source for source in registered() if source.deployed], ids=lambda each: each.kind)
def test_a_source_of_a_deployment_needs_a_path_in_a_simulation(source):
    needed = {"sounds": SOUND, "csv": {"schema_file": "schema"}}
    data = Data(source=source.kind, test_path="test", **needed.get(source.kind, {}))
    with pytest.raises(DataError, match=r"data.path is not set: a simulation reads the training records"):
        source.require(data)
    source.require(data.model_copy(update={"path": "train"}))


def test_an_object_is_given_and_not_read():
    source = source_of("object")
    for refused in (source.require, source.decode):
        with pytest.raises(DataError, match=r'data.source = "object": .* give them to fedtrain.simulate'):
            refused(Data(source="object"))
    assert source.files(Data(source="object")) == ()


def test_the_registry_imports_no_decoder():
    program = (
        "import json, sys; from fedtrain.data.sources import registered;"
        "heavy = [name for name in ('pyarrow', 'PIL', 'soundfile', 'scipy', 'datasets') if name in sys.modules];"
        "print(json.dumps([len(registered()), *heavy]))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [len(ROWS) + 1]
