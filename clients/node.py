"""The files of one client: its identity, the key of its data set ids, its site file and its ledgers.

Nothing of them is read from a message. In a simulation the experiment says in which folder they are.
"""

from dataclasses import dataclass
from pathlib import Path

from fedtrain.config import Experiment
from fedtrain.crypto import Identity, nonce_of
from fedtrain.errors import BudgetError, ConfigError, KeyFileError
from fedtrain.ledger import (
    Ledger,
    LedgerEntry,
    SitePolicy,
    client_folder,
    dataset_digest,
    dataset_key,
    find_policy,
)
from fedtrain.training import Records


@dataclass(frozen=True, kw_only=True)
class Node:
    """A client's own folder, and what it allows."""

    folder: Path
    identity: Identity
    policy: SitePolicy

    def nonce(self, reservation: LedgerEntry) -> bytes:
        """Return the nonce with which the entry for a reservation commits to its update.

        It is the same whenever the same work is done again, as the update then is with seeded noise.
        """
        run, number, plan, model, event = reservation.subject
        return nonce_of(self._key, [run, number, plan, model, event.as_data()])

    @property
    def _key(self) -> bytes:
        file = self.folder / "dataset.key"
        if not file.exists() and any((self.folder / "ledgers").glob("*.jsonl")):
            raise KeyFileError(
                f"{file} is gone, and with a new one every data set would have a new ledger and a new budget. Put it "
                f"back; or, if what was spent does not matter, move {self.folder / 'ledgers'} away"
            )
        return dataset_key(file)

    def dataset_of(self, records: Records) -> str:
        """Return the digest that identifies a data set by its content, whatever its name.

        Raises:
            KeyFileError: the key of the data set digests is gone, or cannot be used.
        """
        return dataset_digest(records.features.numpy(), records.labels.numpy(), self._key)

    def open_ledger(self, dataset: str) -> Ledger:
        """Open the ledger of a data set.

        Raises:
            LedgerError: the ledger is damaged, or another process holds it.
            StorageError: it cannot be read or written.
        """
        return Ledger.open(self.folder / "ledgers", dataset=dataset, identity=self.identity)


def open_node(experiment: Experiment, client: int) -> Node:
    """Open the files of a client, and make its keys at the first time.

    The site file is ``site.toml`` in the client's own folder, or else in the folder of all sites. Without one, the
    budget is that of the experiment.

    Raises:
        ConfigError: there is no place for the files.
        KeyFileError: a key file cannot be used.
        SiteError: the site file cannot be used.
    """
    folder = client_folder(experiment, client)
    identity = Identity.load_or_create(folder / "identity.pem")
    privacy = experiment.privacy
    policy = find_policy(folder) or SitePolicy(epsilon=privacy.epsilon, delta=privacy.delta)
    return Node(folder=folder, identity=identity, policy=policy)


def refuse_without_privacy(experiment: Experiment, client: int) -> None:
    """Refuse training without privacy where the client has a site file that does not list mode "none".

    Raises:
        BudgetError: likewise; nothing was trained.
        SiteError: the site file cannot be used.
    """
    try:
        policy = find_policy(client_folder(experiment, client))
    except ConfigError:  # no folder is named that could hold a site file
        return
    if policy is not None and "none" not in policy.modes:
        raise BudgetError(
            f"client {client} does not train without privacy: its site file allows the modes "
            f"{', '.join(policy.modes)}; nothing was trained"
        )
