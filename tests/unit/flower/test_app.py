from pathlib import Path

import pytest

from fedtrain.config import Experiment, to_flat
from fedtrain.errors import AppError, ConfigError
from fedtrain.flower.app import find_app, own_app, read_app

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
