"""What the messages of a run pass through on the server: the runtime's grid, and its session with the clients."""

from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_bytes

from flwr.serverapp import Grid
from torch import nn

from fedtrain.config import Experiment, aggregation_problem, to_flat
from fedtrain.config.loading import config_digest
from fedtrain.crypto import Identity, SealingKey
from fedtrain.errors import ClientError, ConfigError
from fedtrain.flower.grids.base import by_client
from fedtrain.flower.grids.sealed import SealedGrid
from fedtrain.flower.messages.records import state_record
from fedtrain.flower.sessions import ServerSession, end_session, open_session
from fedtrain.flower.summing import Summing
from fedtrain.messaging import SessionOffer
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.secagg import check_noise
from fedtrain.tasks import weights_of
from fedtrain.trust import Roster

# A client that has not announced its keys by then is not waited for.
SESSION_TIMEOUT = 120.0


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
    def of(cls, experiment: Experiment, *, remote: bool) -> "Transport":
        """Return what an experiment asks for, with both on where clients are on other machines and nothing is said.

        Args:
            experiment: the experiment.
            remote: whether they are.

        Raises:
            ConfigError: the experiment cannot use secure aggregation, or cannot do without it.
        """
        wanted = experiment.transport
        sealed = remote if wanted.sealed is None else wanted.sealed
        secagg = remote if wanted.secagg.enabled is None else wanted.secagg.enabled
        if secagg and (problem := aggregation_problem(experiment)):
            raise ConfigError(problem)
        if remote and not secagg and mechanism_of(experiment).requires.only_sums:
            raise ConfigError(
                'with privacy.trust = "distributed", transport.secagg.enabled = false is for simulations: one share of '
                "the noise does not protect a client from a server that sees it alone; set it to true"
            )
        return cls(sealed=sealed, secagg=secagg)


@dataclass(frozen=True, kw_only=True)
class Channel:
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

    @classmethod
    def over(
        cls,
        grid: Grid,
        clients: Mapping[int, int],
        session: ServerSession,
        transport: Transport,
        summing: Summing | None,
    ) -> "Channel":
        """Return the way to the clients of a session.

        Args:
            grid: where the clients are.
            clients: the client of each node that takes part.
            session: the session.
            transport: which layers are used.
            summing: how updates are summed; ``None`` if they are not.
        """
        return cls(
            grid=SealedGrid(grid, clients=clients, session=session) if transport.sealed else grid,
            clients=clients,
            sealed=transport.sealed,
            session=session,
            summing=summing,
        )

    def end(self, *, timeout: float) -> tuple[int, ...]:
        """End the session, if there is one: clients delete their keys. Return those that did not say so."""
        if self.session is None:
            return ()
        return end_session(self.grid, self.clients, self.session, timeout=min(timeout, SESSION_TIMEOUT))


def open_channel(
    grid: Grid,
    clients: Mapping[int, int],
    experiment: Experiment,
    transport: Transport,
    *,
    offer: SessionOffer,
    identity: Identity,
    roster: Roster,
    summing: Summing | None,
) -> Channel:
    """Open a session with the clients, and return the way to those that take part in it.

    Args:
        grid: where the clients are.
        clients: the client of each node; all are in the roster.
        experiment: the experiment.
        transport: which layers it uses; at least one.
        offer: the session.
        identity: the server's identity.
        roster: the pinned identities.
        summing: how updates are summed; ``None`` if they are not.

    Raises:
        ClientError: fewer clients take part than a cohort needs.
    """
    federation = experiment.federation
    session, missing = open_session(
        grid,
        clients,
        offer=offer,
        config=config_digest(to_flat(experiment)),
        identity=identity,
        key=SealingKey(token_bytes(32)),
        roster=roster,
        timeout=min(federation.deadline, SESSION_TIMEOUT),
    )
    present = {node: client for node, client in clients.items() if client in session.announcements}
    if len(present) < federation.cohort:
        raise ClientError(
            f"{len(present)} clients announced keys for the session, and federation.cohort = {federation.cohort}:\n"
            f"{by_client(missing)}"
        )
    return Channel.over(grid, present, session, transport, summing)


def checked_summing(experiment: Experiment, model: nn.Module, plan: PrivacyPlan | None) -> Summing:
    """Return how updates are summed, if they can be with this mechanism, this model and this cohort.

    Raises:
        ConfigError: they cannot.
    """
    mechanism = mechanism_of(experiment)
    if mechanism.requires.hidden_cohorts:
        raise ConfigError(
            f"the mechanism {mechanism.kind!r} requires that nobody learns who takes part in a round, and in secure "
            "aggregation the members of a cohort know each other; set transport.secagg.enabled = false"
        )
    arrays = state_record(weights_of(model))
    _check_arrays(model, experiment)
    summing, cohort = Summing.of(experiment), experiment.federation.cohort
    try:
        parameters = summing.parameters(members=cohort, sent=arrays)
    except ConfigError as error:
        raise ConfigError(f"[transport.secagg] cannot be used with federation.cohort = {cohort}: {error}") from error
    if plan is not None and mechanism.clips_updates:
        check_noise(parameters, clip_norm=plan.spec.clip_norm, noise_multiplier=plan.round_noise_multiplier)
    if summing.layout.heaviest > parameters.largest:
        raise ConfigError(
            f"transport.secagg.max_weight = {summing.layout.heaviest} is more than a coordinate of "
            f"transport.secagg.bits = {parameters.bits} holds, {parameters.largest}; raise the bits"
        )
    return summing


def _check_arrays(model: nn.Module, experiment: Experiment) -> None:
    state, learnt = weights_of(model), {name for name, _ in model.named_parameters()}
    if strange := [name for name, tensor in state.items() if tensor.is_complex()]:
        raise ConfigError(f"secure aggregation sums real numbers, and the model has complex ones: {', '.join(strange)}")
    if not any(tensor.is_floating_point() for tensor in state.values()):
        raise ConfigError("the model has no floating numbers: there is nothing that could be summed")
    buffers = [name for name, tensor in state.items() if tensor.is_floating_point() and name not in learnt]
    if not mechanism_of(experiment).private and experiment.transport.secagg.bound is None and buffers:
        raise ConfigError(
            f"the model has buffers, which can change by more than the default bound of an update, 1: "
            f"{', '.join(buffers[:5])}; set transport.secagg.bound to the largest change of a number in a round, and "
            "transport.secagg.bits for a grid that is fine enough"
        )
