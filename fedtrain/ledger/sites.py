"""Where the files of simulated clients are. A client on a machine of its own has one such folder, and no other."""

from pathlib import Path

from fedtrain.config import Experiment
from fedtrain.errors import ConfigError


def client_folder(experiment: Experiment, client: int) -> Path:
    """Return the folder of one client's files: its keys, its ledgers, its site file.

    Raises:
        ConfigError: neither the folder of all sites nor the run folder is named.
    """
    if experiment.federation.sites is not None:
        sites = Path(experiment.federation.sites)
    elif experiment.output.directory is not None:
        sites = Path(experiment.output.directory) / "clients"
    else:
        raise ConfigError(
            "a client's ledger needs a place that outlasts the run: set federation.sites, or output.directory (--out)"
        )
    return sites / f"client-{client:04d}"
