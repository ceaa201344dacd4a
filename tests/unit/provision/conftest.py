import itertools
import shutil
from datetime import UTC, datetime

import pytest

from fedtrain.machines import NodeFolder
from fedtrain.machines.request import make_keys
from fedtrain.provision.operator import OperatorFolder

NOW = datetime.now(UTC)


def create(path, **changes):
    return OperatorFolder.create(
        path, **{"address": "fl.example.org:9443", "names": (), "days": 90, "now": NOW} | changes
    )


def asked(kit, folder):
    """Return the request of a node that got the kit."""
    shutil.copytree(kit, folder)
    return make_keys(NodeFolder.open(folder))


@pytest.fixture
def operator(tmp_path):
    return create(tmp_path / "federation")


@pytest.fixture
def request_of(operator, tmp_path):
    """Return a function that adds a node, and makes its keys on its machine."""
    numbers = itertools.count()

    def make(name):
        if name not in OperatorFolder.open(operator.path).nodes:
            OperatorFolder.open(operator.path).add(name)
        return asked(operator.kit(name), tmp_path / "machines" / f"{name}-{next(numbers)}")

    return make
