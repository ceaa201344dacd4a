import itertools
import shutil
from datetime import UTC, datetime

import pytest

from fedtrain.deployment import NodeFolder
from fedtrain.deployment.request import make_keys
from fedtrain.provision.desk import Desk

NOW = datetime.now(UTC)


def create(path, **changes):
    return Desk.create(path, **{"address": "fl.example.org:9443", "names": (), "days": 90, "now": NOW} | changes)


def asked(kit, folder):
    """Return the request of a node that got the kit."""
    shutil.copytree(kit, folder)
    return make_keys(NodeFolder.open(folder))


@pytest.fixture
def desk(tmp_path):
    return create(tmp_path / "federation")


@pytest.fixture
def request_of(desk, tmp_path):
    """Return a function that adds a node, and makes its keys on its machine."""
    numbers = itertools.count()

    def make(name):
        if name not in Desk.open(desk.path).nodes:
            Desk.open(desk.path).add(name)
        return asked(desk.kit(name), tmp_path / "machines" / f"{name}-{next(numbers)}")

    return make
