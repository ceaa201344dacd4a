"""All of a client's own that one message needs: where it runs, what it allows, its keys, its ledgers.

Each is read at most once for a message, when it is first needed, and is then the same for all that answer the message:
the mods and the application. Nothing of it is read from the message. The next message reads it anew, so that an edit of
the site file holds from then on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY

from fedtrain.config import Experiment, from_flat, to_flat
from fedtrain.config.loading import config_digest
from fedtrain.crypto import Identity, SignedEnvelope, nonce_of
from fedtrain.errors import ClientError, ConfigError, KeyFileError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.introduction import ConsistencyProof
from fedtrain.flower.mods.endpoint import Endpoint
from fedtrain.flower.summing import Summing
from fedtrain.ledger import (
    Ledger,
    LedgerEntry,
    SiteFile,
    SitePolicy,
    client_folder,
    dataset_key,
    find_site_file,
    read_site_file,
)
from fedtrain.machines import NODE, NodeFolder
from fedtrain.privacy.mechanisms import mechanism_of

if TYPE_CHECKING:
    from fedtrain.training import Records  # with torch, which not every message needs


@dataclass(frozen=True, kw_only=True)
class ClientContext:
    """A client while it answers one message.

    Attributes:
        experiment: the experiment, which comes from the server.
        client: the client's number.
        node: the folder of its machine; ``None`` in a simulation.
    """

    experiment: Experiment
    client: int
    node: NodeFolder | None = None

    @cached_property
    def folder(self) -> Path:
        """The folder of the client's own files. In a simulation the experiment says where it is.

        Raises:
            ConfigError: there is no place for the files.
        """
        return client_folder(self.experiment, self.client) if self.node is None else self.node.path

    @cached_property
    def site_file(self) -> SiteFile | None:
        """The site file. A machine of its own has one; a simulated client may have none.

        A simulated client's is ``site.toml`` in the client's own folder, or else in the folder of all sites.

        Raises:
            SiteError: the site file cannot be used.
        """
        if self.node is not None:
            return read_site_file(self.node.site)
        try:
            return find_site_file(self.folder)
        except ConfigError:  # no folder is named that could hold a site file
            return None

    @property
    def policy(self) -> SitePolicy | None:
        """What the site file allows; ``None`` if there is none.

        Raises:
            SiteError: the site file cannot be used.
        """
        return None if self.site_file is None else self.site_file.policy

    @property
    def name(self) -> str | None:
        """What the client allows to be called by in reports; ``None`` where it allows no name.

        The site file in the folder above is for all clients there, and names none of them.

        Raises:
            SiteError: the site file cannot be used.
        """
        file = self.site_file
        if file is None or (self.node is None and file.path.parent != self.folder):
            return None
        return file.name

    @property
    def limits(self) -> SitePolicy:
        """What the client allows; without a site file, the budget, the mode and the trust of the experiment.

        Raises:
            SiteError: the site file cannot be used.
        """
        privacy, trust = self.experiment.privacy, mechanism_of(self.experiment).trust
        return self.policy or SitePolicy(
            epsilon=privacy.epsilon, delta=privacy.delta, modes=(privacy.mode,), trust=(trust,)
        )

    @property
    def identity(self) -> Identity:
        """The identity key, read once. A simulated client makes it at the first time.

        Raises:
            ConfigError: there is no place for it.
            KeyFileError: the key file cannot be used.
            SiteError: the site file cannot be used.
            StorageError: it cannot be written.
        """
        assert self.folder  # a ConfigError if there is none, and otherwise an endpoint
        assert self.endpoint is not None
        return self.endpoint.identity

    @cached_property
    def endpoint(self) -> Endpoint | None:
        """What the client knows and insists on as an endpoint of sessions.

        On a machine of its own a client insists on sealed messages and masked updates unless its site file says
        otherwise, whatever the experiment says. ``None`` if no folder is named that could hold the files of a simulated
        client.

        Raises:
            SiteError: the site file cannot be used.
        """
        try:
            folder = self.folder
        except ConfigError:
            return None
        transport, policy, own = self.experiment.transport, self.policy, self.node is not None
        sealed, secagg = (None, None) if policy is None else (policy.sealed, policy.secagg)
        return Endpoint(
            client=self.client,
            folder=folder,
            config=_digest(self.experiment),
            sealed=transport.sealed is True or (own if sealed is None else sealed),
            secagg=transport.secagg.enabled is True or (own if secagg is None else secagg),
            minimum=2 if policy is None else policy.minimum_cohort,
            summing=Summing.of(self.experiment),
            node=self.node,
            digest=self.request_digest,
        )

    def request_digest(self, arrays: ArrayRecord, settings: ConfigRecord) -> str:
        """Return the digest of what a message asks for: one reading of the model for all that need the digest.

        It is of the very records that are given, as they were when they were first given; no message says it.
        """
        for model, config, digest in self._digested:
            if model is arrays and config is settings:
                return digest
        digest = protocol.request_digest(arrays, settings)
        self._digested.append((arrays, settings, digest))
        return digest

    @cached_property
    def _digested(self) -> list[tuple[ArrayRecord, ConfigRecord, str]]:
        """Requests, each with its digest."""
        return []

    def nonce(self, reservation: LedgerEntry) -> bytes:
        """Return the nonce with which the entry for a reservation commits to its update.

        It is the same whenever the same work is done again, as the update then is with seeded noise.
        """
        run, number, plan, model, event = reservation.subject
        return nonce_of(self._key, [run, number, plan, model, event.as_data()])

    def dataset_of(self, records: "Records") -> str:
        """Return the digest that identifies a data set by its content, whatever its name.

        It is kept in the client's folder, found by the records' content again, and verified.

        Raises:
            KeyFileError: the key of the data set digests is gone, or cannot be used.
        """
        from fedtrain.data.cache import kept_digest  # noqa: PLC0415 - not every message has to do with records

        kept = self.folder / "cache" / "digests"
        return kept_digest(kept, records.features.numpy(), records.targets.numpy(), self._key)

    def open_ledger(self, dataset: str) -> Ledger:
        """Open the ledger of a data set.

        Raises:
            LedgerError: the ledger is damaged, or another process holds it.
            StorageError: it cannot be read or written.
        """
        return Ledger.open(self.folder / "ledgers", dataset=dataset, identity=self.identity)

    def consistency_proof(
        self, ledger: Ledger, known: int, *, statement: SignedEnvelope | None = None, nonce: bytes = b""
    ) -> ConsistencyProof:
        """Return the entries that the server does not know, and a statement if there is one."""
        entries = ledger.envelopes_from(known)
        return ConsistencyProof(key=self.identity.public, entries=entries, statement=statement, nonce=nonce)

    @cached_property
    def _key(self) -> bytes:
        file = self.folder / "dataset.key"
        if not file.exists() and any((self.folder / "ledgers").glob("*.jsonl")):
            raise KeyFileError(
                f"{file} is gone, and with a new one every data set would have a new ledger and a new budget. Put it "
                f"back; or, if earlier charges do not matter, move {self.folder / 'ledgers'} away"
            )
        return dataset_key(file)


class _Answering:
    """A message that is being answered, and what was read for it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.client: ClientContext | None = None


_ANSWERING: ContextVar[_Answering | None] = ContextVar("answering", default=None)


def share_context(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let all that answers a message share what is read for it. This mod belongs outside of all others."""
    with _answering(context):
        return call_next(message, context)


@contextmanager
def _answering(context: Context) -> Iterator[None]:
    token = _ANSWERING.set(_Answering(context))
    try:
        yield
    finally:
        _ANSWERING.reset(token)


def context_of(context: Context) -> ClientContext:
    """Return the client that answers a message: the one that was made for it, or a new one.

    Where it runs is in the configuration of its node, which is set on its machine.

    Raises:
        SiteError: the folder that is named is not that of a node.
        ClientError: the node is neither a machine of its own nor part of a simulation of so many clients.
    """
    answering = _ANSWERING.get()
    if answering is None or answering.context is not context:
        return _opened(context)
    if answering.client is None:
        answering.client = _opened(context)
    return answering.client


def open_endpoint(context: Context) -> Endpoint | None:
    """Return what the client of a message knows and insists on as an endpoint of sessions.

    Raises:
        ClientError: the node is no client.
        SiteError: its site file cannot be used.
    """
    return context_of(context).endpoint


def folder_of_all(context: Context) -> Path | None:
    """Return the folder of the files of all simulated clients; ``None`` on a machine of a client's own.

    Raises:
        ClientError: the node is no client.
        SiteError: the folder that is named is not that of a node.
        ConfigError: there is no place for the files.
    """
    client = context_of(context)
    return client.folder.parent if client.node is None else None


def _opened(context: Context) -> ClientContext:
    experiment = _experiment(tuple(sorted(context.run_config.items())))
    folder = context.node_config.get(NODE)
    if folder is not None:
        node = NodeFolder.open(Path(str(folder)))
        return ClientContext(experiment=experiment, client=node.client, node=node)
    number, nodes = context.node_config.get(PARTITION_ID_KEY), context.node_config.get(NUM_PARTITIONS_KEY)
    if number is None or nodes is None:
        raise ClientError(
            f"this node is not part of a simulation (its node config has no {PARTITION_ID_KEY}), and has no folder of "
            f"its own ({NODE}): start it with fedtrain client up"
        )
    clients = experiment.federation.clients
    if nodes != clients:
        raise ClientError(f"the simulation has {nodes} nodes and federation.clients = {clients}; make them equal")
    return ClientContext(experiment=experiment, client=int(number))


@lru_cache(maxsize=1)
def _experiment(items: tuple[tuple[str, object], ...]) -> Experiment:
    return from_flat(dict(items))


@lru_cache(maxsize=1)
def _digest(experiment: Experiment) -> str:
    return config_digest(to_flat(experiment))
