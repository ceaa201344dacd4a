import os
import shutil
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from fedtrain import __version__
from fedtrain.config import Experiment, to_flat
from fedtrain.errors import AppError, ConfigError
from fedtrain.flower.app import build_bundle, bundled_folder, find_app, own_app, own_files, read_app
from fedtrain.machines.bundles import Bundle

# Flower's choice of files warns of a library's old name.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")

ROOT = Path(__file__).parents[3]
PROJECT = """
[project]
name = "tiny"
version = "1.2.3"
[tool.flwr.app]
publisher = "somebody"
[tool.flwr.app.components]
serverapp = "tiny.app:server"
clientapp = "tiny.app:client"
"""
COMPONENTS = '[tool.flwr.app.components]\nserverapp = "s:app"\nclientapp = "c:app"\n'


def write(folder, text):
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_an_app_is_read(tmp_path):
    app = read_app(
        write(
            tmp_path,
            COMPONENTS
            + '[tool.flwr.app.config]\na = 1\nb.c = "x"\n'
            + '[tool.flwr.federations]\ndefault = "here"\nhere.options.num-supernodes = 7\n',
        )
    )
    assert (app.server, app.client, app.config, app.nodes) == ("s:app", "c:app", {"a": 1, "b.c": "x"}, 7)
    assert app.folder == tmp_path.resolve()
    assert app.run_config({"b.c": "y"}) == {"a": 1, "b.c": "y"}


def test_an_app_without_federations_has_ten_nodes(tmp_path):
    assert read_app(write(tmp_path, COMPONENTS)).nodes == 10


def test_only_declared_keys_may_be_set(tmp_path):
    app = read_app(write(tmp_path, COMPONENTS + "[tool.flwr.app.config]\nrounds = 1\n"))
    with pytest.raises(ConfigError, match=r"unknown key round .its value is 2.; did you mean rounds"):
        app.run_config({"round": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no Flower app"),
        ("a =", "is not TOML"),
        ("", "names no serverapp"),
        ('[tool.flwr.app.components]\nserverapp = "s:app"\n', "names no clientapp"),
        ('[tool.flwr.app.components]\nserverapp = "s"\nclientapp = "c:app"\n', "serverapp .* is 's'"),
        (COMPONENTS + "[tool.flwr.app.config]\na = [1]\n", "is not allowed"),
    ],
)
def test_what_is_no_app_is_refused(tmp_path, text, message):
    if text is not None:
        write(tmp_path, text)
    with pytest.raises((AppError, ConfigError), match=message):
        read_app(tmp_path)


def test_our_own_app_declares_the_fields_of_the_experiment():
    app = own_app()
    assert app.config == to_flat(Experiment())
    for name in ("server/app.py", "clients/app.py", "simulations/demo.toml"):
        assert (app.folder / name).is_file()


@pytest.mark.parametrize("text", [None, "[project]\nname = 'analysis'\n[tool.flwr]\n"])
def test_where_no_app_is_it_is_our_own(tmp_path, monkeypatch, text):
    if text is not None:
        write(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    assert find_app(None) == own_app()
    with pytest.raises(AppError, match=r"holds no Flower app|names no serverapp"):
        find_app(tmp_path)


def test_the_app_of_the_current_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, "[tool.flwr.app]\n" + COMPONENTS))
    assert find_app(None) == read_app(tmp_path)


def test_the_checkout_is_our_own_app():
    assert find_app(Path(__file__).parents[3]) == own_app()


@pytest.mark.parametrize("text", ["[tool.flwr.app]\npublisher = 'x'\n", "not toml"])
def test_an_app_of_the_current_folder_that_is_broken_is_not_passed_over(tmp_path, monkeypatch, text):
    monkeypatch.chdir(write(tmp_path, text))
    with pytest.raises(AppError, match=r"names no serverapp|is not TOML"):
        find_app(None)


@pytest.fixture
def app(tmp_path):
    folder = tmp_path / "app"
    (folder / "tiny").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "tiny" / "__init__.py").write_text("")
    (folder / "tiny" / "app.py").write_text(
        "from flwr.clientapp import ClientApp\nfrom flwr.serverapp import ServerApp\n"
        "server, client = ServerApp(), ClientApp()\n"
    )
    return folder


def test_the_same_files_make_the_same_bytes_wherever_and_whenever(app, tmp_path):
    data = build_bundle(read_app(app))
    bundle = Bundle.read(data)
    assert bundle.name == "somebody/tiny 1.2.3"
    assert bundle.sha256 == sha256(data).hexdigest()
    other = tmp_path / "elsewhere"
    (other / "tiny").mkdir(parents=True)
    for name in ("tiny/app.py", "tiny/__init__.py", "pyproject.toml"):
        shutil.copy(app / name, other / name)
        os.utime(other / name, (1, 1))
        (other / name).chmod(0o600)
    assert build_bundle(read_app(other)) == data


def test_another_file_makes_another_bundle(app):
    data = build_bundle(read_app(app))
    (app / "tiny" / "app.py").write_text((app / "tiny" / "app.py").read_text() + "# changed\n")
    assert build_bundle(read_app(app)) != data


def test_an_app_that_flower_cannot_bundle(app):
    (app / "pyproject.toml").write_text(PROJECT.replace('version = "1.2.3"\n', ""))
    with pytest.raises(AppError, match="cannot be bundled"):
        build_bundle(read_app(app))


def test_our_bundle_is_two_short_files_and_what_flower_asks_for():
    bundle = Bundle.read(build_bundle(own_app()))
    assert bundle.name == f"fedtrain/fedtrain {__version__}"
    code = {name: content for name, content in bundle.files.items() if name.endswith(".py")}
    assert sorted(code) == ["clients/__init__.py", "clients/app.py", "server/__init__.py", "server/app.py"]
    assert bundle.files.keys() - code.keys() == {"pyproject.toml", ".info/CONTENT"}
    assert sum(len(content.splitlines()) for content in code.values()) < 65
    assert bundle.unusual == ()
    # Nothing of the repository's own pyproject.toml, such as the settings of its linters.
    project = tomllib.loads(bundle.files["pyproject.toml"].decode())
    assert project.keys() == {"project", "tool"}
    assert project["tool"].keys() == {"flwr"}


def test_an_experiment_is_no_part_of_our_bundle(app, monkeypatch, tmp_path):
    data = build_bundle(own_app())
    experiments = [path.read_bytes() for path in (ROOT / "simulations").glob("*.toml")]
    assert experiments
    for content in Bundle.read(data).files.values():
        assert content not in experiments
    monkeypatch.chdir(tmp_path)
    assert build_bundle(find_app(None)) == data == build_bundle(find_app(ROOT))


def test_flower_makes_the_same_bundle_of_the_folder_that_a_run_submits(app):
    for found in (own_app(), read_app(app)):
        with bundled_folder(found) as folder:
            assert build_fab_from_disk(folder) == build_bundle(found)
        assert folder.exists() == (folder == app)


def test_the_repository_declares_what_the_bundle_declares():
    mine = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert mine.pop("fab-include") == ["server/**/*.py", "clients/**/*.py"]
    assert mine == tomllib.loads(own_files()["pyproject.toml"].decode())["tool"]["flwr"]["app"]


def test_an_installation_without_its_entry_points(tmp_path, monkeypatch):
    monkeypatch.setattr("fedtrain.flower.app.shipped", lambda: tmp_path)
    with pytest.raises(AppError, match=r"lacks a part of fedtrain's app: .*clients/__init__.py: No such file"):
        own_files()
