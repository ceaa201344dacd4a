import os
import shutil
from hashlib import sha256

import pytest

from fedtrain.errors import AppError
from fedtrain.flower.bundle import build_bundle
from fedtrain.machines.bundles import Bundle

# Flower's choice of files warns of a library's old name.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")

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
    data = build_bundle(app)
    bundle = Bundle.read(data)
    assert bundle.name == "somebody/tiny 1.2.3"
    assert bundle.sha256 == sha256(data).hexdigest()
    other = tmp_path / "elsewhere"
    (other / "tiny").mkdir(parents=True)
    for name in ("tiny/app.py", "tiny/__init__.py", "pyproject.toml"):
        shutil.copy(app / name, other / name)
        os.utime(other / name, (1, 1))
        (other / name).chmod(0o600)
    assert build_bundle(other) == data


def test_another_file_makes_another_bundle(app):
    data = build_bundle(app)
    (app / "tiny" / "app.py").write_text((app / "tiny" / "app.py").read_text() + "# changed\n")
    assert build_bundle(app) != data


def test_a_folder_that_holds_no_app(tmp_path, app):
    with pytest.raises(AppError, match="cannot be bundled"):
        build_bundle(tmp_path / "nowhere")
    with pytest.raises(AppError, match="cannot be bundled"):
        build_bundle(tmp_path)
    (app / "pyproject.toml").write_text("[project]\nname = 'tiny'\n")
    with pytest.raises(AppError, match="cannot be bundled"):
        build_bundle(app)
