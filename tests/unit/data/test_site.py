import os
import stat
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from fedtrain.config import Data, Partition
from fedtrain.data import open_store, open_test, partition
from fedtrain.data.site import SiteData, begins_ledger, open_site, read_site_data, schema_digest
from fedtrain.data.types import RuleCounts
from fedtrain.errors import ConfigError, DataError, SiteError, StorageError
from fedtrain.ledger import dataset_digest, dataset_key, read_policy

CLASSES = "b, c, a"
OWN = """
import numpy as np

def load():
    return np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), np.array(["a", "c"])
"""


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


@pytest.fixture
def split_over_sites(tmp_path, parquet, encode):
    """Give a function that makes the same records as three sites' own and as one source with owners."""
    generator = np.random.default_rng(5)
    sites = ["north", "east", "south"]
    owner = np.array(sites * 12)
    pixels = generator.integers(0, 256, (36, 4, 5, 3), dtype=np.uint8)
    numbers = generator.normal(size=(36, 2))
    # Not all sites have records of all classes.
    labels = np.where(owner == "north", "a", generator.choice(["a", "b"], 36))

    def columns(rows, kind):
        if kind == "table":
            return {"age": numbers[rows, 0], "weight": numbers[rows, 1]}
        return {"image": [{"bytes": encode(pixels[row])} for row in rows]}

    def archive(name, **arrays):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        return str(tmp_path / f"{name}.npz")

    def make(kind):
        if kind == "npz":
            own = {
                name: archive(name, x=pixels[owner == name].transpose(0, 3, 1, 2), y=labels[owner == name])
                for name in sites
            }
            whole = archive("all", x=pixels.transpose(0, 3, 1, 2), y=labels, who=owner)
            return own, whole, archive("test", x=pixels[:4].transpose(0, 3, 1, 2), y=labels[:4])
        own = {}
        for name in sites:
            rows = np.flatnonzero(owner == name)
            own[name] = parquet(f"{name}.parquet", {**columns(rows, kind), "label": labels[rows].tolist()})
        rows = np.arange(36)
        whole = parquet(
            "all.parquet", {**columns(rows, kind), "label": labels.tolist(), "who": owner.tolist(), "other": [1] * 36}
        )
        test = parquet("test.parquet", {**columns(rows[:4], kind), "label": labels[:4].tolist()})
        return own, whole, test

    return make


@pytest.mark.parametrize("kind", ["npz", "images", "table"])
def test_a_site_has_what_the_client_of_a_simulation_has_bit_for_bit(site, split_over_sites, kind):
    own, whole, test = split_over_sites(kind)
    source = "npz" if kind == "npz" else "parquet"
    columns = "weight, age" if kind == "table" else None
    data = Data(
        source=source,
        path=whole,
        test_path=test,
        classes=CLASSES,
        feature_columns=columns,
        partition=Partition(kind="natural", column="who"),
    )
    store = open_store(data, seed=3)
    clients = partition(store, data, clients=3, seed=3)
    for client, name in enumerate(sorted(own)):
        own_data = SiteData(source=source, path=own[name], classes=CLASSES, feature_columns=columns)
        records = open_site(own_data, folder=site)
        rows = clients.indices(client)
        assert records.info == store.info
        assert records.info.classes == ("b", "c", "a")
        for array, expected in (
            (records.train.features, store.train.features[rows]),
            (records.train.targets, store.train.targets[rows]),
        ):
            assert array.dtype == expected.dtype
            assert array.shape == expected.shape
            assert array.tobytes() == expected.tobytes()
    server = open_test(
        data.model_copy(update={"path": None, "partition": Partition()}),
    )
    assert server.info == store.info
    assert len(server.train) == 0
    assert server.train.features.shape == (0, *store.info.shape)
    assert (server.train.features.dtype, server.train.targets.dtype) == (store.train.features.dtype, np.int64)
    np.testing.assert_array_equal(server.test.features, store.test.features)
    np.testing.assert_array_equal(server.test.targets, store.test.targets)


def test_a_site_that_writes_its_files_otherwise_has_the_features_of_a_simulation(tmp_path, site):
    columns = """
[columns]
a = { kind = "number", lower = 0, upper = 10 }
b = { kind = "category", values = ["x", "y"], missing = "indicator" }
who = { kind = "owner" }
label = { kind = "target", values = ["n", "y"] }
"""
    (tmp_path / "schema.toml").write_text(columns)
    (tmp_path / "all.csv").write_text("a,b,who,label\n1.5,x,east,n\n2,z,west,y\n3,,west,n\n")
    (tmp_path / "test.csv").write_text("a,b,label\n9,y,y\n")
    whole = {"path": str(tmp_path / "all.csv"), "test_path": str(tmp_path / "test.csv")}
    named = {"source": "csv", "schema_file": str(tmp_path / "schema.toml")}
    data = Data(**whole, **named, partition=Partition(kind="natural", column="who"))
    store = open_store(data, seed=0)
    rows = partition(store, data, clients=2, seed=0).indices(1)
    (site / "schema.toml").write_text('[csv]\ndelimiter = ";"\ndecimal = ","\nmissing = ["?"]\n' + columns)
    (site / "records.csv").write_text("label;b;a\ny;z;2,0\nn;?;3\n")
    (site / "site.toml").write_text('[data]\nsource = "csv"\npath = "records.csv"\nschema_file = "schema.toml"\n')
    records = open_site(read_site_data(site), folder=site)
    assert records.info == store.info
    assert records.train.features.tobytes() == store.train.features[rows].tobytes()
    assert records.train.targets.tobytes() == store.train.targets[rows].tobytes()
    alone = data.model_copy(update={"path": None, "partition": Partition()})
    with pytest.raises(ConfigError, match=rf'each site has a copy of the schema file.*"{store.info.features.schema}"'):
        open_test(alone)
    server = open_test(alone.model_copy(update={"schema_digest": store.info.features.schema}))
    assert server.info == store.info
    assert server.info.columns == store.info.columns
    np.testing.assert_array_equal(server.test.features, store.test.features)
    with pytest.raises(DataError, match="it is not the schema that was agreed on"):
        open_test(alone.model_copy(update={"schema_digest": "0" * 64}))


@pytest.fixture
def table(site):
    """Write a site whose table is decoded by a schema file; return a function that opens it."""
    (site / "records.csv").write_text("a,label\n9,n\n?,y\n")
    (site / "site.toml").write_text('[data]\nsource = "csv"\npath = "records.csv"\nschema_file = "schema.toml"\n')
    (site / "schema.toml").write_text(
        '[csv]\nmissing = ["?"]\n[columns]\n'
        'a = { kind = "number", lower = 0, upper = 9, outside = "clip", missing = "indicator" }\n'
        'label = { kind = "target", values = ["n", "y"] }\n'
    )
    return lambda **wanted: open_site(read_site_data(site), folder=site, **wanted)


def test_an_edit_of_a_schema_file_that_leaves_size_and_time_decodes_anew(site, table):
    file = site / "schema.toml"
    before = table()
    status = file.stat()
    file.write_text(file.read_text().replace("upper = 9", "upper = 6"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = table()
    assert after.info.features.schema == schema_digest(read_site_data(site)) != before.info.features.schema
    assert (before.rules, after.rules) == (
        (RuleCounts(column="a", missing=1),),
        (RuleCounts(column="a", missing=1, clipped=1),),
    )
    assert table().rules == after.rules


def test_records_that_were_decoded_by_another_schema_than_was_agreed_on_are_refused(table):
    assert table(schema=table().info.features.schema).rules
    with pytest.raises(SiteError, match="schema file was edited while its records were read; nothing was trained"):
        table(schema="0" * 64)


def test_other_records_begin_a_ledger(site, table):
    assert begins_ledger(site, table().train) == 0
    key, train = dataset_key(site / "dataset.key"), table().train
    (site / "ledgers").mkdir()
    (site / "ledgers" / f"{'0' * 64}.jsonl").touch()
    assert begins_ledger(site, train) == 1
    (site / "ledgers" / f"{dataset_digest(train.features, train.targets, key)}.jsonl").touch()
    assert begins_ledger(site, train) == 0
    assert begins_ledger(site, replace(train, features=train.features / 2)) == 2


def test_folders_of_images_are_the_same_at_a_site_and_in_a_simulation(tmp_path, site, encode):
    for number, (part, name) in enumerate([("train", "a"), ("train", "b"), ("test", "a")]):
        folder = tmp_path / part / name
        folder.mkdir(parents=True)
        for picture in range(3):
            (folder / f"{picture}.png").write_bytes(encode(np.full((2, 3), 10 * number + picture)))
    path, test_path = str(tmp_path / "train"), str(tmp_path / "test")
    store = open_store(Data(source="images", path=path, test_path=test_path, classes=CLASSES), seed=0)
    records = open_site(SiteData(source="images", path=path, classes=CLASSES), folder=site)
    assert records.train.features.tobytes() == store.train.features.tobytes()
    assert records.train.targets.tolist() == store.train.targets.tolist() == [2, 2, 2, 0, 0, 0]
    server = open_test(Data(source="images", test_path=test_path, classes=CLASSES))
    assert server.test.features.tobytes() == store.test.features.tobytes()
    assert server.test.targets.tolist() == [2, 2, 2]


def test_records_are_decoded_once_and_kept_where_only_the_owner_reads(site):
    np.savez(site / "records.npz", x=np.zeros((3, 2, 2), np.uint8), y=[0, 1, 0])
    (site / "cache").mkdir(mode=0o755)
    data = SiteData(source="npz", path=str(site / "records.npz"))
    first = open_site(data, folder=site)
    assert stat.S_IMODE((site / "cache").stat().st_mode) == 0o700
    assert isinstance(first.train.features.base, np.memmap)
    assert not first.train.features.flags.writeable
    (entry,) = (path for path in (site / "cache").iterdir() if path.is_dir())
    written = (entry / "features.npy").stat().st_mtime_ns
    open_site(data, folder=site)
    assert (entry / "features.npy").stat().st_mtime_ns == written
    np.savez(site / "records.npz", x=np.ones((4, 2, 2), np.uint8), y=[0, 1, 0, 1])
    assert len(open_site(data, folder=site).train) == 4


def test_what_is_said_of_a_full_disk_does_not_tell_how_many_records_there_are(site):
    np.savez(site / "records.npz", x=np.zeros((300_000, 1)), y=np.zeros(300_000, int))
    program = f"""
import resource
from pathlib import Path
import signal
from fedtrain.data.site import SiteData, open_site
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    open_site(SiteData(source="npz", path={str(site / "records.npz")!r}), folder=Path({str(site)!r}))
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"StorageError {site}/cache: the decoded records cannot be kept: writing failed; make room, or let this user "
        "write there\n"
    )


def test_a_cache_that_cannot_be_made_is_an_error_that_names_it(site):
    np.savez(site / "records.npz", x=np.zeros((3, 2, 2), np.uint8), y=[0, 1, 0])
    (site / "cache").write_text("")
    with pytest.raises(StorageError, match=f"{site}/cache: the decoded records cannot be kept: File exists"):
        open_site(SiteData(source="npz", path=str(site / "records.npz")), folder=site)


def test_a_function_of_the_sites_own_gives_records(site):
    (site / "records.py").write_text(OWN)
    records = open_site(SiteData(source="records:load", classes=CLASSES), folder=site)
    assert records.train.features.flags.c_contiguous
    np.testing.assert_array_equal(
        records.train.features, np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3).transpose(0, 3, 1, 2)
    )
    assert records.train.targets.tolist() == [2, 1]
    assert records.info.classes == ("b", "c", "a")
    assert not (site / "cache").exists()


def test_a_module_on_the_path_of_python_gives_records(site, tmp_path, monkeypatch):
    (tmp_path / "own_records_on_the_path.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    records = open_site(SiteData(source="own_records_on_the_path:load"), folder=site)
    assert records.info.classes == ("a", "c")


def test_numbers_of_the_sites_own_become_float32_in_c_order(site):
    body = "    import numpy as np\n    return np.array([[1, 3], [2.5, 4]]).T, [0, 7]\n"
    (site / "records.py").write_text(f"def load():\n{body}")
    records = open_site(SiteData(source="records:load", classes="0,7,9"), folder=site)
    assert records.info.kind == "table"
    assert records.train.features.dtype == np.float32
    assert records.train.features.flags.c_contiguous
    assert records.train.features.tolist() == [[1, 2.5], [3, 4]]
    assert records.train.targets.tolist() == [0, 1]


def test_a_module_of_the_sites_own_may_define_dataclasses(site):
    (site / "records.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Visit:\n    age: float\n"
        "def load():\n    return [[Visit(7.0).age]], ['a']\n"
    )
    assert open_site(SiteData(source="records:load"), folder=site).train.features.tolist() == [[7]]


@pytest.mark.parametrize(
    "records",
    [
        "np.ma.array([[1.0], [999.0]], mask=[[0], [1]]), ['a', 'b']",
        "[[1.0], [2.0]], np.ma.array([0, 1], mask=[0, 1])",
    ],
)
def test_values_that_are_masked_out_do_not_become_records(site, records):
    (site / "records.py").write_text(f"import numpy as np\ndef load():\n    return {records}\n")
    with pytest.raises(DataError, match="'records:load' gave a masked array with missing values"):
        open_site(SiteData(source="records:load"), folder=site)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('ward')", r"'records:load' failed: KeyError: 'ward'"),
        ("from fedtrain.errors import StorageError; raise StorageError('4711')", "failed: StorageError: 4711"),
        ("return 1", "failed: TypeError"),
        ("return [[1.0]], [0], [0]", "failed: ValueError: too many values"),
        ("return [[1.0], [1.0, 2.0]], [0, 1]", "failed: ValueError"),
        ("return [[float('nan')]], [0]", "row 0, column 0: nan is not a finite 32-bit number"),
        ("return [[1.0], [2.0]], [0]", r"y has shape \(1,\)"),
        ("return [[1.0]], [0.5]", "dtype float64; allowed: integers or strings"),
        ("return [[1.0]], [-1]", "label -1 is negative"),
        ("return [['1']], [0]", "has shape .* and dtype <U1; allowed: uint8 images"),
        ("return [], []", "holds no records"),
    ],
)
def test_a_function_that_does_not_give_records_is_refused(site, body, message):
    (site / "records.py").write_text(f"def load():\n    {body}\n")
    with pytest.raises(DataError, match=message):
        open_site(SiteData(source="records:load"), folder=site)


@pytest.mark.parametrize("source", ["no_such_module_at_all:load", "records:other"])
def test_a_function_that_is_not_there_is_named(site, source):
    (site / "records.py").write_text(OWN)
    with pytest.raises(DataError, match=rf"source = '{source}' failed: (ModuleNotFound|Attribute)Error"):
        open_site(SiteData(source=source), folder=site)


def test_labels_outside_of_the_classes_are_all_named(site):
    np.savez(site / "records.npz", x=np.zeros((4, 2, 2), np.uint8), y=["a", "x", "b", "y"])
    with pytest.raises(DataError, match=r"not in data.classes = b, c, a: 'x', 'y'$"):
        open_site(SiteData(source="npz", path=str(site / "records.npz"), classes=CLASSES), folder=site)


@pytest.mark.parametrize("classes", ["a,,b", "a, a"])
def test_classes_that_cannot_be_are_refused(site, classes):
    write(site, f'[data]\nsource = "npz"\npath = "records.npz"\nclasses = "{classes}"\n')
    with pytest.raises(SiteError, match=f"classes = '{classes}' has an empty name, or one twice"):
        read_site_data(site)


@pytest.mark.parametrize(("column", "values"), [("ward", ["x", "y"]), ("smoker", [True, False])])
def test_categories_are_refused_since_they_differ_between_sites(site, parquet, column, values):
    path = parquet("records.parquet", {column: values, "age": [1.0, 2.0], "label": ["a", "b"]})
    data = SiteData(source="parquet", path=path, classes=CLASSES, feature_columns=f"age, {column}")
    with pytest.raises(DataError, match=f"column '{column}' holds categories, and which of them occur differs"):
        open_site(data, folder=site)
    test = Data(source="parquet", test_path=path, classes=CLASSES, feature_columns=f"age, {column}")
    with pytest.raises(DataError, match=f"column '{column}' holds categories"):
        open_test(test)


def test_a_feature_of_named_numbers_is_refused_since_each_site_has_an_order_of_its_own(site, parquet):
    columns = {"ward": [0, 1], "age": [1.0, 2.0], "label": ["a", "b"]}
    names = {"ward": {"names": ["heart", "lung"], "_type": "ClassLabel"}}
    path = parquet("records.parquet", columns, features=names)
    data = SiteData(source="parquet", path=path, classes=CLASSES, feature_columns="age, ward")
    with pytest.raises(DataError, match=r"column 'ward' holds categories, .* and how they are numbered"):
        open_site(data, folder=site)
    alone = data.model_copy(update={"feature_columns": "age"})
    assert open_site(alone, folder=site).info.shape == (1,)


def test_the_order_of_a_tables_columns_is_the_sites_to_say(site, parquet):
    path = parquet("records.parquet", {"age": [1.0, 2.0], "weight": [3.0, 4.0], "label": ["a", "b"]})
    with pytest.raises(DataError, match="feature_columns is not set"):
        open_site(SiteData(source="parquet", path=path, classes=CLASSES), folder=site)
    records = open_site(SiteData(source="parquet", path=path, feature_columns="weight, age"), folder=site)
    assert records.train.features.tolist() == [[3, 1], [4, 2]]


def write(site, text):
    (site / "site.toml").write_text(text)


def test_the_section_of_a_site_file_is_read(site):
    write(site, '[budget]\nepsilon = 1\n[data]\nsource = "parquet"\npath = "records/*.parquet"\nlabel_column = "y"\n')
    assert read_site_data(site) == SiteData(
        source="parquet", path=str(site / "records" / "*.parquet"), label_column="y"
    )
    write(site, '[data]\nsource = "npz"\npath = "/srv/records.npz"\n')
    assert read_site_data(site).path == "/srv/records.npz"
    write(site, '[data]\nsource = "own.module:load"\n')
    assert read_site_data(site) == SiteData(source="own.module:load")


def test_a_home_folder_is_that_of_the_user(site, monkeypatch):
    monkeypatch.setenv("HOME", "/home/her")
    write(site, '[data]\nsource = "npz"\npath = "~/records.npz"\n')
    assert read_site_data(site).path == "/home/her/records.npz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[budget]\n", r"has no \[data\], which says where the records are"),
        ("[data", "is not TOML"),
        ("[data]\n", "source"),
        ("data = 3\n", "cannot be used"),
        ('[data]\nsource = "digits"\n', "source = 'digits'"),
        ('[data]\nsource = "hub"\n', "source = 'hub'"),
        ('[data]\nsource = "parquets"\n', "source = 'parquets'"),
        ('[data]\nsource = "a/b:c"\n', "source = 'a/b:c'"),
        ('[data]\nsource = "npz"\n', "path is needed"),
        ('[data]\nsource = "own:load"\npath = "x"\n', "path is needed for .* not allowed for any other"),
        ('[data]\nsource = "npz"\npath = "x"\nseed = 1\n', "seed"),
        ('[data]\nsource = "npz"\npath = 4\n', "path = 4"),
    ],
)
def test_a_section_that_cannot_be_used_is_refused(site, text, message):
    write(site, text)
    with pytest.raises(SiteError, match=f"(?s){site}/site.toml.*{message}"):
        read_site_data(site)


def test_a_site_file_that_is_not_there_is_named(site):
    with pytest.raises(SiteError, match=f"cannot read the site file {site}/site.toml: No such file"):
        read_site_data(site)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "digits"}, 'data.source = "digits" is for simulations'),
        ({"source": "hub", "dataset": "x/y"}, 'data.source = "hub" is for simulations'),
        ({"classes": None}, "data.classes is not set"),
        ({"path": "x.npz", "test_path": None, "test_fraction": 0.5}, "data.test_path is not set"),
        ({"path": "x.npz"}, "data.path is for simulations: in a deployment each site has its own records"),
        ({"max_records": 3}, "data.max_records is for simulations"),
        ({"partition": Partition(kind="dirichlet")}, "data.partition.kind is for simulations"),
        ({"partition": Partition(column="who")}, "data.partition.column is for simulations"),
    ],
)
def test_a_deployed_server_refuses_what_is_for_simulations(settings, message):
    data = Data(**{"source": "npz", "test_path": "test.npz", "classes": CLASSES} | settings)
    with pytest.raises(ConfigError, match=message):
        open_test(data)


def test_a_deployed_server_does_not_take_training_records_for_test_records(tmp_path):
    path = tmp_path / "both.npz"
    x, y = np.zeros((2, 2, 2), np.uint8), ["a", "b"]
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(DataError, match=f"{path} holds training records, x_train"):
        open_test(Data(source="npz", test_path=str(path), classes=CLASSES))


@pytest.fixture
def two_files(tmp_path, parquet, encode):
    """Give a function that writes records of the given labels and returns their path."""

    def write(source, name, labels):
        if source == "npz":
            np.savez(tmp_path / f"{name}.npz", x=np.zeros((len(labels), 2, 2), np.uint8), y=labels)
            return str(tmp_path / f"{name}.npz")
        if source == "parquet":
            return parquet(f"{name}.parquet", {"age": [1.0] * len(labels), "label": labels})
        for number, label in enumerate(labels):
            folder = tmp_path / name / label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.png").write_bytes(encode(np.zeros((2, 2))))
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("source", ["npz", "parquet", "images"])
def test_named_classes_need_not_occur_in_training_records_in_a_simulation_either(two_files, source):
    data = Data(
        source=source,
        path=two_files(source, "train", ["c", "a"]),
        test_path=two_files(source, "test", ["b", "d"]),
        classes="d, c, b, a",
        feature_columns="age",
    )
    store = open_store(data, seed=0)
    assert store.info.classes == ("d", "c", "b", "a")
    assert sorted(store.train.targets.tolist()) == [1, 3]
    assert store.test.targets.tolist() == [2, 0]
    assert store.test.targets.tolist() == open_test(data.model_copy(update={"path": None})).test.targets.tolist()
    with pytest.raises(DataError, match=r"not in data.classes = c, a: 'b', 'd'$"):
        open_store(data.model_copy(update={"classes": "c, a"}), seed=0)
    with pytest.raises(DataError, match="is not"):
        open_store(data.model_copy(update={"classes": None}), seed=0)


def test_a_simulation_needs_training_records():
    data = Data(source="npz", test_path="test.npz", classes=CLASSES)
    with pytest.raises(DataError, match=r"data.path is not set: a simulation reads the training records"):
        open_store(data, seed=0)


def test_a_site_file_is_read_as_editors_and_people_write_it(tmp_path):
    (tmp_path / "site.toml").write_bytes(
        b'\xef\xbb\xbf[data]\nsource = "npz"\npath = "x.npz"\nclasses = ["no", "yes"]\n'
        b"[budget]\nepsilon = 1.0\ndelta = 1e-5\n"
    )
    assert read_site_data(tmp_path).class_names == ("no", "yes")
    assert read_policy(tmp_path / "site.toml").epsilon == 1
    for content, words in (
        ('[data]\npath = "C:\\data"', "single quotes"),
        ("a".encode("utf-16").decode("latin-1"), "UTF-16"),
    ):
        (tmp_path / "site.toml").write_bytes(content.encode("latin-1"))
        for read in (lambda: read_site_data(tmp_path), lambda: read_policy(tmp_path / "site.toml")):
            with pytest.raises(SiteError, match=f"site.toml is not TOML: .*{words}"):
                read()
