import pytest

from tests.unit.health import folders, pki


@pytest.fixture(scope="session")
def ca():
    return pki.authority("CA of the federation")


@pytest.fixture(scope="session")
def members():
    return folders.Members.make()
