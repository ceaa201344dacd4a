import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Picture

from fedtrain.data.types import ClassTarget, Columns, DataInfo, Image, Sound, Text
from fedtrain.data.unlabelled import read_unlabelled
from fedtrain.errors import DataError

TARGET = ClassTarget(names=("no", "yes"))
IMAGES = DataInfo(features=Image(shape=(1, 4, 5)), target=TARGET)
TABLE = DataInfo(features=Columns(shape=(2,), names=("age", "dose")), target=TARGET)
NAMELESS = DataInfo(features=Columns(shape=(2,)), target=TARGET)
SOUNDS = DataInfo(features=Sound(shape=(200,), rate=8000), target=TARGET)
TEXTS = DataInfo(features=Text(shape=(6,)), target=TARGET)
CATEGORIES = DataInfo(features=Columns(shape=(3,), names=("age", "sex", "sex")), target=TARGET)


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_arrays_are_read_as_training_arrays_are(tmp_path):
    pixels = np.arange(40, dtype=np.uint8).reshape(2, 4, 5)
    found = read_unlabelled(saved(tmp_path / "a.npz", x=pixels, y=[0, 1]), IMAGES)
    assert (found.features.shape, found.names) == ((2, 1, 4, 5), ("0", "1"))
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 4]]))
    rows = read_unlabelled(tmp_path / "a.npy", NAMELESS)
    assert rows.features.dtype == np.float32
    assert rows.features.tolist() == [[1, 2], [3, 4]]


def test_no_record_is_lost_to_a_quote_that_is_not_closed(tmp_path):
    (tmp_path / "a.csv").write_text('id,note\n1,"a\n2,b\n3,c\n')
    with pytest.raises(DataError, match=r"line 2: a quote .* is not closed"):
        read_unlabelled(tmp_path / "a.csv", TEXTS, text_column="note")


def test_a_text_is_read_as_it_stands_with_its_spaces_quotes_and_words_for_what_is_missing(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'id, note\r\n1," ""a"""\r\n2,NA\r\n3,"a\nb"\r\n')
    found = read_unlabelled(tmp_path / "a.csv", TEXTS, text_column="note")
    assert [row.tobytes().rstrip(bytes(1)) for row in found.features] == [b' "a"', b"NA", b"a\nb"]


def test_a_row_of_a_parquet_file_is_named_as_the_predictions_name_it(tmp_path):
    pq.write_table(pa.table({"age": [1.0, None], "dose": [1.0, 2.0]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 1, column 'age': the value is missing"):
        read_unlabelled(tmp_path / "a.parquet", TABLE)


def test_columns_are_taken_by_their_names_and_others_are_left(tmp_path):
    (tmp_path / "a.csv").write_text("dose,name,age\n0.5,x,40\n1e2,y,41\n")
    found = read_unlabelled(tmp_path / "a.csv", TABLE)
    assert found.features.tolist() == [[40, 0.5], [41, 100]]
    pq.write_table(pa.table({"dose": [0.5], "age": [40], "more": ["x"]}), tmp_path / "a.parquet")
    assert read_unlabelled(tmp_path / "a.parquet", TABLE).features.tolist() == [[40, 0.5]]


def test_texts_are_read_from_their_column_and_an_empty_one_is_a_record(tmp_path):
    (tmp_path / "a.csv").write_text("id,note\n1,é\n2,\n3,longer text\n")
    pq.write_table(pa.table({"note": ["é", "", "longer text"]}), tmp_path / "a.parquet")
    for file in ("a.csv", "a.parquet"):
        found = read_unlabelled(tmp_path / file, TEXTS, text_column="note")
        assert found.features.dtype == np.uint8
        assert [row.tobytes() for row in found.features] == ["é".encode() + bytes(4), bytes(6), b"longer"]


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (None, "does not say which column was the text"),
        ("text", "has no column 'text', which the model takes; it has: note, number"),
        ("number", "column 'number' has type int64, and the model takes texts"),
    ],
)
def test_a_table_without_the_text_is_refused(tmp_path, column, problem):
    pq.write_table(pa.table({"note": ["a"], "number": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=problem):
        read_unlabelled(tmp_path / "a.parquet", TEXTS, text_column=column)


def test_sounds_are_read_as_samples(tmp_path):
    found = read_unlabelled(saved(tmp_path / "a.npz", x=np.tile([0, 0.5, -1, 1], (1, 50))), SOUNDS)
    assert (found.features.dtype, found.features.tolist()) == (np.float32, [[0, 0.5, -1, 1] * 50])
    with pytest.raises(DataError, match="the model takes sounds of 200 samples at 8,000 Hz"):
        read_unlabelled(saved(tmp_path / "b.npz", x=np.zeros((1, 4))), SOUNDS)


def test_images_are_called_by_their_files(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("a.png", "b/c.png"):
        Picture.fromarray(np.full((4, 5), 7, np.uint8)).save(tmp_path / name)
    found = read_unlabelled(tmp_path, IMAGES)
    assert found.names == ("a.png", "b/c.png")
    assert found.features.shape == (2, 1, 4, 5)
    assert read_unlabelled(tmp_path / "a.png", IMAGES).names == ("a.png",)


def test_what_systems_leave_in_a_folder_of_images_is_passed_over(tmp_path):
    for name in ("a.png", "@eaDir/a.png/thumb_M.jpg", ".ipynb_checkpoints/a.png", "__MACOSX/a.png", "._a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(np.full((4, 5), 7, np.uint8)).save(tmp_path / name)
    assert read_unlabelled(tmp_path, IMAGES).names == ("a.png",)


def test_numbers_that_stand_for_names_are_refused_whatever_their_order(tmp_path):
    features = {"age": {"dtype": "int64", "_type": "Value"}, "dose": {"names": ["low", "high"], "_type": "ClassLabel"}}
    table = pa.table({"age": [40], "dose": [1]})
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(described), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"column 'dose': its metadata says that its numbers mean low, high, .*archive"):
        read_unlabelled(tmp_path / "a.parquet", TABLE)


def parquet(**columns):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "info", "message"),
    [
        ("a.csv", b"age,weight\n1,2\n", TABLE, "has no column 'dose', which the model takes; it has: age, weight"),
        ("a.csv", b"age,dose\n1,\n", TABLE, r"a\.csv, line 2, column 'dose': the value is missing"),
        ("a.csv", b"age,dose\n1,two\n", TABLE, r"a\.csv, line 2, column 'dose': 'two' is no number; a number is"),
        ("a.csv", b'age,dose\n1,"2,5"\n', TABLE, r"a\.csv, line 2, column 'dose': '2,5' is no number"),
        ("a.csv", b"age,dose\n1,0x10\n", TABLE, r"a\.csv, line 2, column 'dose': '0x10' is no number"),
        ("a.csv", b"age,dose\n1,1e300\n", TABLE, r"a\.csv, line 2, column 'dose': 1e\+300 is not a finite"),
        ("a.csv", b'age,dose,on\n1,2,"x\n3,4,y\n5,6,z\n', TABLE, r'a\.csv, line 2: a quote \("\) is not closed'),
        (
            "a.csv",
            b"age,dose\n1,2\n3\n",
            TABLE,
            r"a\.csv, line 3: 1 values, and 2 are expected: '3'; a value .* quotes$",
        ),
        ("a.csv", "age,dose,ö\n1,2,3\n".encode("latin-1"), TABLE, r"a\.csv, line 1 has a byte that is not UTF-8"),
        ("a.csv", b"age;dose\n1;2\n", TABLE, "it has one column, 'age;dose'; if ';' is between them, write the file"),
        ("a.csv", b"age,dose\n", TABLE, "holds no records"),
        ("a.csv", b"age,dose,age\n1,2,3\n", TABLE, "more than one column is named 'age'"),
        ("a.csv", b"", TABLE, "is empty: it has neither"),
        ("a.csv", b"age,dose\n1,2\n", NAMELESS, "whose columns have no names; give an archive"),
        ("a.csv", b"age,sex\n1,2\n", CATEGORIES, "has columns of categories"),
        (
            "a.csv",
            b"age,dose\n1,2\n",
            IMAGES,
            "holds a table, and the model takes images of 5 x 4 pixels with 1 channel",
        ),
        ("a.parquet", parquet(age=["x"], dose=[1]), TABLE, "column 'age' has type string, and the model takes numbers"),
        ("a.parquet", b"nothing", TABLE, "cannot be read as a table"),
        ("a.png", b"nothing", TABLE, "holds images, and the model takes rows of 2 numbers"),
        ("a.png", b"nothing", IMAGES, "the image cannot be read as PNG or JPEG"),
        ("a.npz", b"nothing", TABLE, "cannot be read as a NumPy archive"),
        ("a.npz", b"PK\3\4nothing", TABLE, "cannot be read as a NumPy archive"),
        ("a.csv", b"age,dose\n1,2\n", SOUNDS, "holds a table, and the model takes sounds of 200 samples at 8,000 Hz"),
        ("a.txt", b"nothing", TABLE, r"told by its suffix; allowed: \.npz"),
    ],
)
def test_what_is_no_record_of_the_model_is_refused_in_words(tmp_path, name, content, info, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_unlabelled(tmp_path / name, info)


def test_arrays_of_another_shape_or_type_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"records of shape \(3,\) and type float32, and the model takes rows of 2 numbers"
    ):
        read_unlabelled(saved(tmp_path / "a.npz", x=np.zeros((2, 3))), NAMELESS)
    with pytest.raises(DataError, match=r"there is no array 'x'; the archive holds: z"):
        read_unlabelled(saved(tmp_path / "b.npz", z=np.zeros((2, 3))), NAMELESS)
    with pytest.raises(DataError, match=r"[Oo]bject"):
        read_unlabelled(saved(tmp_path / "c.npz", x=np.array([{}], dtype=object)), NAMELESS)
    with pytest.raises(DataError, match="there is no such file or folder"):
        read_unlabelled(tmp_path / "none.npz", NAMELESS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        read_unlabelled(tmp_path / "empty", IMAGES)
