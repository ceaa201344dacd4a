"""What other programs write beside the data, or into its files, is not taken for data."""

import json
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Picture

from fedtrain.config import Data
from fedtrain.data import open_store
from fedtrain.data.sources.images import decode_images
from fedtrain.errors import DataError

ROWS = 8
VALUES = {"x": np.arange(ROWS, dtype=float), "y": np.ones(ROWS), "label": ["a", "b"] * (ROWS // 2)}
NAMES = [f"patient {row}" for row in range(ROWS)]


def written(path, columns, index=()):
    """Write columns as pandas does: the metadata lists those of the index."""
    table = pa.table(columns)
    if index is not None:
        described = {"index_columns": list(index), "columns": [], "pandas_version": "3.0.0"}
        table = table.replace_schema_metadata({"pandas": json.dumps(described)})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)
    return str(path)


def opened(path, **fields):
    return open_store(Data(source="parquet", path=path, test_fraction=0.25, **fields), seed=0)


RANGE = {"kind": "range", "name": None, "start": 0, "stop": ROWS, "step": 1}
SHUFFLED = np.random.default_rng(0).permutation(ROWS)
# What pandas 3.0 writes: the columns that it adds, and its list of index columns.
INDEXES = {
    "a range, in the metadata alone": ({}, [RANGE]),
    "none": ({}, []),
    "without a name, after sample, filter or shuffle": ({"__index_level_0__": SHUFFLED}, ["__index_level_0__"]),
    "strings without a name": ({"__index_level_0__": NAMES}, ["__index_level_0__"]),
    "with a name": ({"patient": NAMES}, ["patient"]),
    "several levels, one without a name": (
        {"hospital": [0, 1] * 4, "__index_level_1__": SHUFFLED},
        ["hospital", "__index_level_1__"],
    ),
    "without a name, its metadata lost": ({"__index_level_0__": SHUFFLED}, None),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_of_pandas_is_no_feature(kind, tmp_path):
    more, index = INDEXES[kind]
    store = opened(written(tmp_path / "t.parquet", {**VALUES, **more}, index))
    assert store.info.columns == ("x", "y")
    assert store.info.shape == (2,)
    assert set(store.train.features[:, 1]) == {1.0}


def test_pandas_own_metadata_is_read(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(VALUES).sample(frac=1.0, random_state=0)
    frame.to_parquet(tmp_path / "t.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "t.parquet").names
    assert opened(str(tmp_path / "t.parquet")).info.columns == ("x", "y")
    frame.index = pd.Index(NAMES, name="patient")
    frame.to_parquet(tmp_path / "named.parquet")
    assert opened(str(tmp_path / "named.parquet")).info.columns == ("x", "y")


def test_an_index_that_is_named_is_a_feature_a_label_or_an_owner(tmp_path):
    path = written(tmp_path / "t.parquet", {**VALUES, "age": np.arange(ROWS), "ward": ["n", "s"] * 4}, ["age", "ward"])
    assert opened(path).info.columns == ("x", "y")
    assert opened(path, feature_columns="x, age").info.columns == ("x", "age")
    store = opened(path, label_column="ward")
    assert (store.info.columns, store.info.classes) == (("x", "y", "label"), ("n", "s"))


def test_files_of_one_frame_may_differ_in_their_index(tmp_path):
    written(tmp_path / "parts" / "a.parquet", VALUES, [RANGE])
    written(tmp_path / "parts" / "b.parquet", {**VALUES, "patient": NAMES}, ["patient"])
    written(tmp_path / "parts" / "c.parquet", {**VALUES, "patient": NAMES}, None)
    assert opened(str(tmp_path / "parts")).info.columns == ("x", "y")


def test_a_column_that_only_looks_like_an_index_is_a_feature(tmp_path):
    # What pandas reads from a CSV file that has its index: nothing tells it from a measurement.
    store = opened(written(tmp_path / "t.parquet", {"Unnamed: 0": np.arange(ROWS), **VALUES}, [RANGE]))
    assert store.info.columns == ("Unnamed: 0", "x", "y")


def test_a_table_of_nothing_but_an_index_says_how_to_use_it(tmp_path):
    path = written(tmp_path / "t.parquet", {"label": VALUES["label"], "age": np.arange(ROWS)}, ["age"])
    with pytest.raises(
        DataError, match=r"no feature column besides label, age; pandas' index \('age'\) is one only if"
    ):
        opened(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"index_columns": 3}', '{"index_columns": [["a"]]}', "null"])
def test_other_metadata_of_that_name_is_passed_over(text, tmp_path):
    table = pa.table(VALUES).replace_schema_metadata({"pandas": text})
    pq.write_table(table, tmp_path / "t.parquet")
    assert opened(str(tmp_path / "t.parquet")).info.columns == ("x", "y")


def test_a_folder_of_the_hub_leaves_an_index_out(tmp_path):
    (tmp_path / "data").mkdir()
    for name, more in (("train", {"patient": NAMES}), ("test", {})):
        written(tmp_path / "data" / f"{name}-0.parquet", {**VALUES, **more}, list(more) or [RANGE])
    data = Data(source="hub", dataset=str(tmp_path / "data"), test_fraction=0.25)
    assert open_store(data, seed=0).info.columns == ("x", "y")


LEFT_BY_OTHERS = (
    "._part-0.parquet",
    ".part-0.parquet.crc",
    ".DS_Store",
    "_SUCCESS",
    "_metadata",
    "Thumbs.db",
    ".x.parquet",
)


def test_files_of_other_systems_in_a_folder_of_parquet_are_passed_over(tmp_path):
    path = written(tmp_path / "parts" / "part-0.parquet", VALUES)
    for name in LEFT_BY_OTHERS:
        (tmp_path / "parts" / name).write_bytes(b"no data")
    assert len(opened(str(tmp_path / "parts")).train) == len(opened(path).train)


def test_the_names_of_folders_are_no_columns_and_files_below_are_named_by_a_pattern(tmp_path):
    for year in (2020, 2021):
        folder = tmp_path / "set" / f"year={year}"
        folder.mkdir(parents=True)
        written(folder / "part-0.parquet", VALUES)
    with pytest.raises(DataError, match=r'holds no .parquet file; its subfolders do: name them as ".*/set/\*\*/\*.par'):
        opened(str(tmp_path / "set"))
    pattern = f"{tmp_path}/set/**/*.parquet"
    assert opened(pattern).info.columns == ("x", "y")
    with pytest.raises(DataError, match="label_column = 'year': the name of the folder says it, and only the columns"):
        opened(pattern, label_column="year")


@pytest.mark.parametrize("aside", ["_delta_log", "_temporary/0", "_spark_metadata"])
def test_a_pattern_passes_over_the_folders_in_which_programs_keep_their_own(aside, tmp_path):
    written(tmp_path / "set" / "part-0.parquet", VALUES)
    (tmp_path / "set" / "_year=2020").mkdir()
    written(tmp_path / "set" / "_year=2020" / "part-1.parquet", VALUES)
    (tmp_path / "set" / aside).mkdir(parents=True)
    written(tmp_path / "set" / aside / "part-2.parquet", {**VALUES, "z": VALUES["x"]})
    store = opened(f"{tmp_path}/set/**/*.parquet")
    assert (store.info.columns, len(store.train) + len(store.test)) == (("x", "y"), 2 * ROWS)
    named = opened(f"{tmp_path}/set/_[dst]*/**/*.parquet")
    assert (named.info.columns, len(named.train) + len(named.test)) == (("x", "y", "z"), ROWS)


MANY = {name: np.tile(values, 5) for name, values in VALUES.items()}


@pytest.mark.parametrize("visits", [1, 1.5, 2])
def test_a_column_that_names_records_is_a_feature_only_if_it_is_asked_for(visits, tmp_path):
    """An index that has become a column, by reset_index or a CSV file in between, says so nowhere."""
    rows = len(MANY["x"])
    names = [f"patient {row / visits:.0f}" for row in range(rows)]
    path = written(tmp_path / "t.parquet", {"patient": names, **MANY}, None)
    words = rf"column 'patient' holds {len(set(names))} different values in {rows} records: .* use with feature_columns"
    with pytest.raises(DataError, match=words):
        opened(path)
    assert opened(path, feature_columns="x, y").info.shape == (2,)
    assert opened(path, feature_columns="x, patient").info.shape == (1 + len(set(names)),)
    assert opened(written(tmp_path / "w.parquet", {"ward": names[:10] * (rows // 10), **MANY}, None)).info.shape[0] > 2


# Images


PIXELS = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation):
    exif = Picture.Exif()
    exif[0x0112] = orientation
    return exif


GREY, RGB = Picture.fromarray(PIXELS[..., 0]), Picture.fromarray(PIXELS)
DECODED = {
    **{f"a JPEG of orientation {each}": encoded(RGB, "JPEG", exif=turned(each)) for each in range(1, 9)},
    "a JPEG of no orientation": encoded(RGB, "JPEG", exif=turned(0)),
    "a grey JPEG of orientation 6": encoded(GREY, "JPEG", exif=turned(6)),
    "a PNG of orientation 8": encoded(RGB, exif=turned(8)),
    "a transparent colour": encoded(RGB, transparency=tuple(int(value) for value in PIXELS[0, 0])),
    "a transparent grey": encoded(GREY, transparency=int(PIXELS[0, 0, 0])),
    "a transparent colour of orientation 6": encoded(RGB, transparency=(1, 2, 3), exif=turned(6)),
}
REFUSED = {
    "a palette": (encoded(RGB.quantize(8)), "P"),
    "a palette with a transparent colour": (encoded(RGB.quantize(8), transparency=1), "P"),
    "grey with transparency": (encoded(GREY.convert("LA")), "LA"),
    "colours with transparency": (encoded(RGB.convert("RGBA")), "RGBA"),
}


def place(row):
    return f"row {row}"


@pytest.mark.parametrize("kind", DECODED)
def test_an_image_is_decoded_as_by_the_datasets_library(kind):
    import datasets

    theirs = np.asarray(datasets.Image().decode_example({"bytes": DECODED[kind], "path": None}))
    ours = decode_images([DECODED[kind]], 1, place=place)[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs)


def test_the_orientations_are_different_images():
    shapes = [decode_images([DECODED[f"a JPEG of orientation {each}"]], 1, place=place).shape for each in range(1, 9)]
    assert shapes == [(1, 3, 4, 6)] * 4 + [(1, 3, 6, 4)] * 4


@pytest.mark.parametrize("kind", REFUSED)
def test_an_image_of_another_mode_is_refused_with_its_mode(kind):
    content, mode = REFUSED[kind]
    with pytest.raises(DataError, match=f"row 0: the image has mode '{mode}'; allowed: 8-bit grey"):
        decode_images([content], 1, place=place)


def test_what_systems_leave_in_a_folder_of_images_is_passed_over(tmp_path):
    root = tmp_path / "animals"
    for name in ("cat/1.png", "dog/2.png"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(encoded(GREY))
        for left in ("Thumbs.db", "desktop.ini", "._1.png", ".DS_Store"):
            (root / name).with_name(left).write_bytes(b"no image")
        (root / name).with_name("@eaDir").mkdir()
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._cat").write_bytes(b"no image")
    store = open_store(Data(source="images", path=str(root), test_fraction=0.5), seed=0)
    assert store.info.classes == ("cat", "dog")
