import pytest

from tests.unit.deployment.doctor import pki


@pytest.fixture(scope="session")
def ca():
    return pki.authority("CA of the federation")


@pytest.fixture
def ca_file(ca, tmp_path):
    path = tmp_path / "ca.pem"
    ca.write(path)
    return path
