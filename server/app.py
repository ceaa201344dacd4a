"""The Flower ServerApp. Flower finds it through ``pyproject.toml``."""

import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtrain.config import from_flat
from fedtrain.serverapp.run import run_experiment

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config describes."""
    if not logging.getLogger("fedtrain").isEnabledFor(logging.DEBUG):
        # The screen shows the rounds; Flower's own lines about them would break it.
        logging.getLogger("flwr").setLevel(logging.ERROR)
    run_experiment(grid, from_flat(context.run_config))
