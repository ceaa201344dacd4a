import textwrap

import pytest
from flwr.app import Message, RecordDict

from fedtrain.engine import LocalGrid

HEADER = """
import os, signal, sys, time
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

"""


@pytest.fixture
def write_app(tmp_path):
    def write(source, name="client"):
        folder = tmp_path / "app"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(HEADER + textwrap.dedent(source))
        return folder

    return write


@pytest.fixture
def make_grid(write_app):
    grids = []

    def make(source, **options):
        settings = {"client_app": "client:app", "run_config": {}, "nodes": 4, "workers": 2, "preload": ()}
        grid = LocalGrid(app_dir=write_app(source), **(settings | options))
        grids.append(grid)
        return grid

    yield make
    for grid in grids:
        grid.close()


@pytest.fixture
def messages():
    def make(nodes, content=None, **options):
        return [
            Message(RecordDict() if content is None else content, 1000 + node, "train", **options) for node in nodes
        ]

    return make
