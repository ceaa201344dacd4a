from pathlib import Path

import pytest

from fedtrain.config import from_flat
from fedtrain.errors import ConfigError
from fedtrain.ledger import client_folder


@pytest.mark.parametrize(
    ("flat", "folder"),
    [
        ({"output.directory": "run"}, "run/clients/client-0003"),
        ({"output.directory": "run", "federation.sites": "sites"}, "sites/client-0003"),
        ({"federation.sites": "sites"}, "sites/client-0003"),
    ],
)
def test_the_folder_of_a_client(flat, folder):
    assert client_folder(from_flat(flat), 3) == Path(folder)


def test_a_ledger_needs_a_place():
    with pytest.raises(ConfigError, match=r"set federation.sites, or output.directory"):
        client_folder(from_flat({}), 3)
