"""The files of one client: its identity, the key of its data set ids, its site file and its ledgers."""

from dataclasses import dataclass
from pathlib import Path

from fedtrain.clientapp.host import Host
from fedtrain.config import Experiment
from fedtrain.crypto import Identity
from fedtrain.errors import BudgetError, KeyFileError
from fedtrain.ledger import (
    Ledger,
    LedgerEntry,
    SitePolicy,
    dataset_digest,
    dataset_key,
)
from fedtrain.training import Records
from fedtrain.trust import nonce_of


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
        return dataset_digest(records.features.numpy(), records.targets.numpy(), self._key)

    def open_ledger(self, dataset: str) -> Ledger:
        """Open the ledger of a data set.

        Raises:
            LedgerError: the ledger is damaged, or another process holds it.
            StorageError: it cannot be read or written.
        """
        return Ledger.open(self.folder / "ledgers", dataset=dataset, identity=self.identity)


def open_node(experiment: Experiment, host: Host) -> Node:
    """Open the files of a client. A simulated client makes its keys at the first time.

    A simulated client's site file is ``site.toml`` in the client's own folder, or else in the folder of all sites.
    Without one, its budget is that of the experiment.

    Raises:
        ConfigError: there is no place for the files.
        KeyFileError: a key file cannot be used.
        SiteError: the site file cannot be used.
    """
    folder = host.folder(experiment)
    key = folder / "identity.pem"
    identity = Identity.load_or_create(key) if host.node is None else Identity.load(key)
    privacy = experiment.privacy
    policy = host.policy(experiment) or SitePolicy(epsilon=privacy.epsilon, delta=privacy.delta)
    return Node(folder=folder, identity=identity, policy=policy)


def refuse_task(experiment: Experiment, host: Host) -> None:
    """Refuse a task that the client's site file does not allow, before any of its code runs.

    Raises:
        BudgetError: it is not allowed; nothing was trained.
        SiteError: the site file cannot be used.
    """
    policy = host.policy(experiment)
    if policy is not None and policy.tasks is not None and experiment.task.name not in policy.tasks:
        raise BudgetError(
            f"client {host.client} does not train the task {experiment.task.name!r}: its site file allows the tasks "
            f"{', '.join(policy.tasks) or 'none at all'}; nothing was trained"
        )


def refuse_mode(experiment: Experiment, host: Host) -> None:
    """Refuse training without privacy where the client's site file does not list mode "none".

    On a machine of its own, seeded noise is refused too, whatever the site file says.

    Raises:
        BudgetError: likewise; nothing was trained.
        SiteError: the site file cannot be used.
    """
    policy, privacy = host.policy(experiment), experiment.privacy
    if policy is not None and privacy.mode == "none" and "none" not in policy.modes:
        raise BudgetError(
            f"client {host.client} does not train without privacy: its site file allows the modes "
            f"{', '.join(policy.modes)}; nothing was trained"
        )
    if host.node is not None and privacy.mode != "none" and privacy.noise == "seeded":
        raise BudgetError(
            f"client {host.client} does not train with seeded noise, which anybody can compute and subtract: it is for "
            'simulations; set privacy.noise = "secure"; nothing was trained'
        )
