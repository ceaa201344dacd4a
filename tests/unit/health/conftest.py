import pytest

from tests.unit.health import folders, pki


@pytest.fixture(scope="session")
def ca():
    return pki.authority("CA of the federation")


@pytest.fixture
def ca_file(ca, tmp_path):
    path = tmp_path / "ca.pem"
    ca.write(path)
    return path


@pytest.fixture(scope="session")
def members():
    return folders.Members.make()


@pytest.fixture
def node(tmp_path, members, ca):
    return folders.node_folder(tmp_path / "node", members, ca)


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch):
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
