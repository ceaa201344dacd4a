"""The files of one client: its identity, the key of its data set ids, its site file and its ledgers.

Nothing of them is read from a message: the server cannot change what a client allows.
"""

from dataclasses import dataclass
from pathlib import Path

from fedtrain.config import Experiment
from fedtrain.crypto import Identity
from fedtrain.errors import ClientError
from fedtrain.ledger import Ledger, SitePolicy, dataset_digest, dataset_key, read_policy
from fedtrain.training import Records

SITE_FILE = "site.toml"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A client's own folder, and what it allows."""

    folder: Path
    identity: Identity
    policy: SitePolicy

    def open_ledger(self, records: Records) -> Ledger:
        """Open the ledger of a data set, which its content decides, whatever its name.

        Raises:
            LedgerError: the ledger is damaged, or another process holds it.
            StorageError: it cannot be read or written.
        """
        key = dataset_key(self.folder / "dataset.key")
        dataset = dataset_digest(records.features.numpy(), records.labels.numpy(), key)
        return Ledger.open(self.folder / "ledgers", dataset=dataset, identity=self.identity)


def open_node(experiment: Experiment, client: int) -> Node:
    """Open the files of a client, and make its keys at the first time.

    The site file is ``site.toml`` in the client's own folder, or else in the folder of all sites. Without one, the
    budget is that of the experiment.

    Raises:
        ClientError: there is no place for the files.
        KeyFileError: a key file cannot be used.
        SiteError: the site file cannot be used.
    """
    sites = sites_folder(experiment)
    folder = sites / f"client-{client:04d}"
    identity = Identity.load_or_create(folder / "identity.pem")
    for file in (folder / SITE_FILE, sites / SITE_FILE):
        if file.exists():
            return Node(folder=folder, identity=identity, policy=read_policy(file))
    privacy = experiment.privacy
    return Node(folder=folder, identity=identity, policy=SitePolicy(epsilon=privacy.epsilon, delta=privacy.delta))


def sites_folder(experiment: Experiment) -> Path:
    """Return the folder of all clients' files.

    Raises:
        ClientError: neither it nor the run folder is named.
    """
    if experiment.federation.sites is not None:
        return Path(experiment.federation.sites)
    if experiment.output.directory is not None:
        return Path(experiment.output.directory) / "clients"
    raise ClientError(
        "a client's ledger needs a place that outlasts the run: set federation.sites, or output.directory (--out)"
    )
