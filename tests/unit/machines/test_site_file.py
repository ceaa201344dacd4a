import tomllib

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedtrain.errors import ConfigError, SiteError
from fedtrain.machines.site_file import filled_in
from fedtrain.provision.kit import SITE_FILE
from fedtrain.tasks.build import TASKS


@pytest.fixture
def site(tmp_path):
    kit = tmp_path / "kit"
    kit.mkdir()
    (kit / "site.toml").write_text(SITE_FILE)
    return kit / "site.toml"


def read(data):
    return tomllib.loads(data.decode())


def test_a_kits_file_is_filled_in_and_its_comments_stay(site, tmp_path):
    (tmp_path / "records.npz").write_text("")
    found = filled_in(site, data=tmp_path / "records.npz", classes="healthy, ill", delta=1e-3)
    expected = tomllib.loads(SITE_FILE)
    expected["data"] = {"source": "npz", "path": str(tmp_path / "records.npz"), "classes": "healthy, ill"}
    expected["budget"]["delta"] = 1e-3
    assert read(found) == expected
    before, after = SITE_FILE.splitlines(), found.decode().splitlines()
    assert len(before) == len(after)
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 4
    assert site.read_text() == SITE_FILE


def test_a_kits_file_names_every_task_and_allows_all_that_train():
    allowed = tomllib.loads(SITE_FILE)["policy"]["tasks"]
    assert set(allowed) == set(TASKS) - {"statistics"}
    assert 'Add "statistics"' in SITE_FILE


def test_what_is_in_the_kit_is_named_from_there(site):
    (site.parent / "schema.toml").write_text("")
    (site.parent / "records.parquet").write_text("")
    found = read(filled_in(site, data=site.parent / "records.parquet", schema=site.parent / "schema.toml"))["data"]
    assert found == {"source": "parquet", "path": "records.parquet", "schema_file": "schema.toml"}


def test_a_file_that_a_person_has_edited_is_filled_in_again(site, tmp_path):
    (tmp_path / "b.npz").write_text("")
    site.write_text(
        '[budget]\nepsilon = 1\ndelta = 1e-9 # mine\n[data]\nsource = "csv" # old\npath = "a.csv"\n[policy]\n'
    )
    found = filled_in(site, data=tmp_path / "b.npz", classes="a, b", delta=0.5)
    assert read(found) == {
        "budget": {"epsilon": 1, "delta": 0.5},
        "data": {"source": "npz", "path": str(tmp_path / "b.npz"), "classes": "a, b"},
        "policy": {},
    }


@pytest.mark.parametrize(
    ("names", "given", "source"),
    [
        (["a.parquet", "b.parquet"], "", "parquet"),
        (["a.npz", "b.npz", "notes.txt"], "*.npz", "npz"),
        (["ill/1.png", "healthy/2.JPG"], "", "images"),
        (["a/x.npz", "b/x.npz", "b/notes.txt"], "*/x.npz", "npz"),
        (["a/b/x.parquet", "y.parquet", "notes.txt"], "**/*.parquet", "parquet"),
        (["records[1].npz", "other.csv"], "records[1].npz", "npz"),
    ],
)
def test_a_folder_or_a_pattern_says_its_format(site, tmp_path, names, given, source):
    folder = tmp_path / "records"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    found = read(filled_in(site, data=folder / given))["data"]
    assert (found["source"], found["path"]) == (source, str(folder / given))


@pytest.mark.parametrize("names", [["a.wav"], ["a.csv", "b.parquet"], ["a.csv", "notes"]])
def test_a_format_that_cannot_be_told_is_for_the_site_to_write(site, tmp_path, names):
    (tmp_path / "records").mkdir()
    for name in names:
        (tmp_path / "records" / name).write_text("")
    with pytest.raises(ConfigError, match=r"do not say what format they have.*Write source and path"):
        filled_in(site, data=tmp_path / "records")


def test_what_is_not_there_is_refused(site, tmp_path):
    for missing in (tmp_path / "a.csv", tmp_path / "*.csv"):
        with pytest.raises(ConfigError, match="there are no records"):
            filled_in(site, data=missing)
    with pytest.raises(ConfigError, match="there is no schema file"):
        filled_in(site, schema=tmp_path / "schema.toml")


@pytest.mark.parametrize(
    ("name", "message"),
    [("x" * 300, "cannot look at .*File name too long"), ("\udcff.npz", "cannot name .*rename it")],
)
def test_a_place_that_cannot_be_looked_at_or_written_is_refused(site, tmp_path, name, message):
    if len(name) < 256:
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match=message):
        filled_in(site, data=tmp_path / name)
    with pytest.raises(ConfigError, match=message if len(name) < 256 else "there is no schema file"):
        filled_in(site, schema=tmp_path / name)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, float("nan"), float("inf")])
def test_a_delta_that_is_none_is_refused(site, delta):
    with pytest.raises(ConfigError, match="is not between 0 and 1"):
        filled_in(site, delta=delta)


def test_a_format_that_needs_more_is_refused_without_it(site, tmp_path):
    (tmp_path / "records.csv").write_text("")
    with pytest.raises(SiteError, match=r"schema_file is not set, and source = \"csv\" needs it"):
        filled_in(site, data=tmp_path / "records.csv")


def test_classes_beside_a_schema_are_refused(site, tmp_path):
    (tmp_path / "schema.toml").write_text("")
    with pytest.raises(SiteError, match="classes is set, and the schema file says what the columns mean"):
        filled_in(site, schema=tmp_path / "schema.toml", classes="a, b")


@pytest.mark.parametrize(
    "text",
    [
        '[data]\nsource = "npz"\npath = """\na\n"""\n',  # a value of several lines
        'data = {source = "npz", path = "a"}\n',
        '[ data ]\nsource = "npz"\npath = "a"\n',
        'budget = 1\n[x]\ny = """\n[data]\npath = 1\n"""\n[data]\nsource = "npz"\npath = "a"\n',
    ],
)
def test_a_file_that_a_program_would_spoil_is_left_to_the_site(site, tmp_path, text):
    (tmp_path / "b.npz").write_text("")
    site.write_text(text)
    with pytest.raises(SiteError, match=r"cannot be edited by a program as it is written; write under \[data\]: "):
        filled_in(site, data=tmp_path / "b.npz")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(min_size=1).filter(lambda name: "," not in name), min_size=2, max_size=4, unique=True))
def test_any_names_of_classes_are_what_is_read_or_refused(site, names):
    classes = ",".join(names)
    try:
        found = filled_in(site, classes=classes)
    except SiteError:
        return
    assert read(found)["data"]["classes"] == classes
    assert read(found) == {**tomllib.loads(SITE_FILE), "data": read(found)["data"]}
    assert tomllib.loads(tomli_w.dumps({"classes": classes})) == {"classes": classes}
