"""What the messages of a run pass through on the server: the runtime's grid, and its session with the clients."""

from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_bytes, token_hex

from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.superlink.grid.http_grid import HttpGrid

from fedtrain.config import Experiment, aggregation_problem, to_flat
from fedtrain.config.digest import config_digest
from fedtrain.crypto import Identity, Roster, SealingKey
from fedtrain.errors import ClientError, ConfigError
from fedtrain.flower import protocol
from fedtrain.flower.transport import Layout, SealedGrid, ServerSession, Summing, end_session, open_session
from fedtrain.privacy import PrivacyPlan
from fedtrain.secagg import check_noise
from fedtrain.transport import SessionOffer
from server.joining import cause

# A client that has not announced its keys by then is not waited for.
_PATIENCE = 120.0

# Half of what floating parameters are initialised with; an update of one parameter is seldom a tenth of it.
_BOUND = 1.0


@dataclass(frozen=True, kw_only=True)
class Transport:
    """Which layers a run uses.

    Attributes:
        sealed: whether models and updates are encrypted between server and client.
        secagg: whether the server gets sums of masked updates.
    """

    sealed: bool
    secagg: bool

    @classmethod
    def of(cls, experiment: Experiment, grid: Grid) -> "Transport":
        """Return what an experiment asks for, with both on where clients are on other machines and nothing is said.

        Raises:
            ConfigError: the experiment cannot use secure aggregation.
        """
        deployed, wanted = isinstance(grid, HttpGrid), experiment.transport
        sealed = deployed if wanted.sealed is None else wanted.sealed
        secagg = deployed if wanted.secagg.enabled is None else wanted.secagg.enabled
        if secagg and (problem := aggregation_problem(experiment)):
            raise ConfigError(problem)
        return cls(sealed=sealed, secagg=secagg)


@dataclass(frozen=True, kw_only=True)
class Link:
    """The way to the clients.

    Attributes:
        grid: where messages go, sealed if they are.
        clients: the client of each node that takes part.
        sealed: whether they are.
        session: the session of server and clients; ``None`` if no layer needs one.
        summing: how updates are summed; ``None`` if the server sees each.
    """

    grid: Grid
    clients: Mapping[int, int]
    sealed: bool = False
    session: ServerSession | None = None
    summing: Summing | None = None

    def end(self, *, timeout: float) -> None:
        """End the session, if there is one: clients delete their keys."""
        if self.session is not None:
            end_session(self.grid, self.clients, self.session, timeout=min(timeout, _PATIENCE))


def open_link(
    grid: Grid,
    clients: Mapping[int, int],
    experiment: Experiment,
    transport: Transport,
    *,
    run: str,
    identity: Identity,
    roster: Roster,
    model: ArrayRecord,
    plan: PrivacyPlan | None,
) -> Link:
    """Open a session with the clients, and return the way to those that take part in it.

    Args:
        grid: where the clients are.
        clients: the client of each node; all are in the roster.
        experiment: the experiment.
        transport: which layers it uses; at least one.
        run: id of the run.
        identity: the server's identity.
        roster: the pinned identities.
        model: the model of the run.
        plan: the privacy plan; ``None`` without privacy.

    Raises:
        ConfigError: updates of this model cannot be summed as configured.
        ClientError: fewer clients take part than a cohort needs.
    """
    summing = _summing(experiment, model, plan) if transport.secagg else None
    federation = experiment.federation
    session, missing = open_session(
        grid,
        clients,
        offer=SessionOffer(run=run, session=token_hex(16), roster=roster.digest),
        config=config_digest(to_flat(experiment)),
        identity=identity,
        key=SealingKey(token_bytes(32)),
        roster=roster,
        timeout=min(federation.deadline, _PATIENCE),
    )
    present = {node: client for node, client in clients.items() if client in session.announcements}
    if len(present) < federation.cohort:
        reasons = "\n".join(f"client {client}: {cause(reason)}" for client, reason in sorted(missing.items()))
        raise ClientError(
            f"{len(present)} clients announced keys for the session, and federation.cohort = {federation.cohort}:\n"
            f"{reasons}"
        )
    return Link(
        grid=SealedGrid(grid, clients=present, session=session) if transport.sealed else grid,
        clients=present,
        sealed=transport.sealed,
        session=session,
        summing=summing,
    )


def _summing(experiment: Experiment, model: ArrayRecord, plan: PrivacyPlan | None) -> Summing:
    """Return how updates are summed, if they can be with this model and this cohort.

    Raises:
        ConfigError: they cannot.
    """
    secagg, privacy = experiment.transport.secagg, experiment.privacy
    by_client = privacy.mode == "client"
    counters = (protocol.WITHIN_CLIP,) if by_client and privacy.adaptive_clipping else ()
    layout = Layout(counters=counters)
    if secagg.max_weight is not None:
        layout = Layout(counters=(protocol.WEIGHT,), weight=protocol.WEIGHT, heaviest=secagg.max_weight)
    summing = Summing(
        bits=secagg.bits,
        bound=None if by_client else secagg.bound or _BOUND,
        threshold=secagg.threshold,
        neighbours=secagg.neighbours,
        layout=layout,
        seed=experiment.seed,
        deadline=experiment.federation.deadline,
    )
    parameters = summing.parameters(members=experiment.federation.cohort, sent=model, norm=privacy.clip_norm)
    if by_client and plan is not None:
        spec = plan.spec
        check_noise(parameters, clip_norm=spec.clip_norm, noise_multiplier=plan.value_noise_multiplier)
    if layout.heaviest > parameters.largest:
        raise ConfigError(
            f"transport.secagg.max_weight = {layout.heaviest} is more than a coordinate of transport.secagg.bits = "
            f"{secagg.bits} holds, {parameters.largest}; raise the bits"
        )
    return summing
