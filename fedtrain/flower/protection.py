"""What protects the messages of any Flower app: plain parameters that server and clients are both given.

An app builds one `Protection` in a module that its ServerApp and its ClientApp import. The server wraps its grid with
it (`fedtrain.flower.protect_grid`), and the client its app (`fedtrain.flower.protect_client`). Nothing of it is ever
read from a message: a client insists on its own copy, and its digest is bound into every message of a session.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import inf, isfinite
from pathlib import Path
from typing import Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, RecordDict
from flwr.serverapp.strategy import Strategy

from fedtrain.config.sections import SINGLE_UPDATES
from fedtrain.crypto import canonical
from fedtrain.errors import ConfigError, PrivacySpecError, TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.summing import Layout, Summing
from fedtrain.privacy import PrivacyPlan, PrivacySpec, calibrate

_SCHEMA = "fedtrain.protection/1"

# Flower's strategies that compute something else than a function of the sum of the updates: those of the table of our
# own configuration, and those that clip or handle single updates.
_NOT_OVER_SUMS = SINGLE_UPDATES | {
    "DifferentialPrivacyClientSideAdaptiveClipping",
    "DifferentialPrivacyClientSideFixedClipping",
    "DifferentialPrivacyServerSideAdaptiveClipping",
    "DifferentialPrivacyServerSideFixedClipping",
    "FedXgbBagging",
    "FedXgbCyclic",
}

# Kinds of numpy types whose numbers are summed, and of those that stay as they were sent.
_SUMMED, _KEPT = "f", "iub"


@dataclass(frozen=True, kw_only=True)
class SecAgg:
    """How updates are summed, so that the server sees sums alone.

    Attributes:
        bits: bits of a quantized number, its sign included.
        largest_change: the largest change of a number in a round; what is larger is clipped to it. With client privacy
            the clipping norm takes its place.
        max_weight: weigh each update by the metric ``num-examples`` of its reply, up to this; ``None`` weighs all the
            same.
        minimum: the least number of clients in a sum.
    """

    bits: int = 16
    largest_change: float = 1.0
    max_weight: int | None = None
    minimum: int = 2


@dataclass(frozen=True, kw_only=True)
class ClientPrivacy:
    """Central client privacy: each client's whole update is clipped, and the server adds noise to the sum.

    Attributes:
        epsilon: the budget of each client over all rounds.
        delta: its delta, below 1 / clients.
        clip_norm: bound on the L2 norm of an update, over all its floating numbers together.
        cohort: how many clients the strategy asks in a round, and the public divisor of their sum.
        rounds: the rounds that one client takes part in at most.
        noise: ``secure``; or ``seeded`` for tests, which guarantees nothing.
        seed: of seeded noise.
    """

    epsilon: float
    delta: float
    clip_norm: float
    cohort: int
    rounds: int
    noise: Literal["secure", "seeded"] = "secure"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Protection:
    """What protects the messages of an app.

    Attributes:
        clients: nodes of the federation. Each has a number below it, the ``partition-id`` of its node config.
        sealed: encrypt and sign every message end to end.
        secagg: how updates are summed; ``None`` lets the server see each.
        client_privacy: the guarantee to each client; ``None`` for none.
        reveal_results: with secure aggregation, let replies to evaluation and queries through, although each is of a
            single client. With client privacy it is not allowed: epsilon does not cover them.
        deadline: seconds that a client has for an update, and again for its help to unmask a sum.

    Raises:
        ConfigError: values that are not allowed, or do not go together.
    """

    clients: int
    sealed: bool = True
    secagg: SecAgg | None = None
    client_privacy: ClientPrivacy | None = None
    reveal_results: bool = False
    deadline: float = 600.0

    def __post_init__(self) -> None:
        """Check the values."""
        if not (self.sealed or self.secagg or self.client_privacy):
            raise ConfigError("a Protection protects nothing: give it sealed, secagg or client_privacy")
        if self.clients < 1:
            raise ConfigError(f"clients = {self.clients} is not allowed: at least 1 is")
        if not 0 < self.deadline < inf:
            raise ConfigError(f"deadline = {self.deadline:g} is not allowed: it is in seconds, finite and above 0")
        if self.secagg is not None:
            self._check_sums(self.secagg)
        if self.client_privacy is not None:
            self._check_privacy(self.client_privacy)

    def _check_sums(self, secagg: SecAgg) -> None:
        if not 2 <= secagg.minimum <= self.clients:  # noqa: PLR2004 - a sum has at least two terms
            raise ConfigError(f"secagg.minimum = {secagg.minimum} is not allowed: it is 2 to clients = {self.clients}")
        if not (isfinite(secagg.largest_change) and secagg.largest_change > 0):
            raise ConfigError(
                f"secagg.largest_change = {secagg.largest_change:g} is not allowed: it is finite and above 0"
            )
        if secagg.max_weight is not None:
            largest = (1 << (secagg.bits - 1)) - 1
            if not 1 <= secagg.max_weight <= largest:
                raise ConfigError(
                    f"secagg.max_weight = {secagg.max_weight} is not allowed: with {secagg.bits} bits it is 1 to "
                    f"{largest}"
                )
            if self.client_privacy is not None:
                raise ConfigError(
                    "secagg.max_weight and client_privacy are not allowed together: the noise is for updates that all "
                    "weigh the same"
                )

    def _check_privacy(self, privacy: ClientPrivacy) -> None:
        least = self.secagg.minimum if self.secagg is not None else 1
        if not least <= privacy.cohort <= self.clients:
            raise ConfigError(
                f"client_privacy.cohort = {privacy.cohort} is not allowed: it is {least} to clients = {self.clients}"
            )
        if privacy.noise not in ("secure", "seeded"):
            raise ConfigError(f'client_privacy.noise = {privacy.noise!r} is not allowed: "secure" or "seeded" is')
        if self.reveal_results:
            raise ConfigError(
                "reveal_results and client_privacy are not allowed together: epsilon does not cover what single "
                "clients answer to an evaluation or a query; evaluate on the server (evaluate_fn)"
            )

    @property
    def hides_updates(self) -> bool:
        """Whether the strategy gets one reply in the place of all."""
        return self.secagg is not None or self.client_privacy is not None

    @property
    def needs_session(self) -> bool:
        """Whether server and clients agree on keys."""
        return self.sealed or self.secagg is not None

    @property
    def digest(self) -> str:
        """The hex SHA-256 of all parameters, which is bound into the messages of a session."""
        return sha256(canonical({"schema": _SCHEMA, **asdict(self)})).hexdigest()

    @property
    def summing(self) -> Summing:
        """How updates are summed, with the defaults of `SecAgg` where nothing is."""
        secagg, privacy = self.secagg or SecAgg(), self.client_privacy
        layout = Layout()
        if privacy is not None:
            layout = Layout(norm=float(privacy.clip_norm))
        elif secagg.max_weight is not None:
            layout = Layout(counters=(protocol.WEIGHT,), weight=protocol.WEIGHT, heaviest=secagg.max_weight)
        return Summing(
            bits=secagg.bits,
            bound=float(secagg.largest_change if privacy is None else privacy.clip_norm),
            threshold=None,
            neighbours=None,
            layout=layout,
            seed=0,
            deadline=self.deadline,
            adaptive=False,
        )

    def plan(self) -> PrivacyPlan:
        """Return the plan of client privacy: the least noise that keeps the guarantee.

        An unmodified strategy draws cohorts of a fixed size, which the nodes and the server know. So no draw is relied
        on: every participation counts in full, and two federations are neighbours if the contribution of one client is
        zero in one of them.

        Raises:
            PrivacySpecError: nothing is guaranteed, or no noise keeps the guarantee.
        """
        privacy = self.client_privacy
        if privacy is None:
            raise PrivacySpecError("a Protection without client_privacy guarantees nothing")
        return calibrate(
            PrivacySpec(
                unit="client",
                neighbouring="zero out one client",
                epsilon=float(privacy.epsilon),
                delta=float(privacy.delta),
                clip_norm=float(privacy.clip_norm),
                sampling_rate=1.0,
                divisor=privacy.cohort,
                population=float(self.clients),
                steps_per_round=1,
                rounds=privacy.rounds,
            )
        )

    def check_strategy(self, strategy: Strategy) -> None:
        """Refuse a strategy of which it is known that it cannot work on one average.

        Raises:
            ConfigError: with what is allowed.
        """
        if not self.hides_updates:
            return
        for kind in type(strategy).__mro__:
            if kind.__name__ in _NOT_OVER_SUMS:
                raise ConfigError(
                    f"the strategy {type(strategy).__name__} needs single updates, and with secagg or client_privacy "
                    "it gets their average alone; allowed are strategies that average, such as FedAvg, FedAvgM, "
                    "FedProx, FedAdam, FedYogi and FedAdagrad"
                )
        for name, expected in (("weighted_by_key", protocol.WEIGHT), ("configrecord_key", protocol.CONFIG)):
            if (value := getattr(strategy, name, expected)) != expected:
                raise ConfigError(
                    f"the strategy has {name} = {value!r}, and with secagg or client_privacy only Flower's default "
                    f"{expected!r} is allowed"
                )


def is_training(message_type: str) -> bool:
    """Say whether a message of this type asks for an update, whatever its action is called."""
    return message_type.partition(".")[0] == MessageType.TRAIN


def asked_arrays(content: RecordDict) -> ArrayRecord:
    """Return the model of a message that asks for an update.

    Raises:
        TransportError: it holds anything else than one record of arrays, some of them floating, and the settings in a
            record ``config``. What is not compared between clients could tell one to do other work than the rest.
    """
    others = {name for name, record in content.items() if not isinstance(record, ArrayRecord)}
    settings = content.get(protocol.CONFIG, ConfigRecord())
    if len(content.array_records) != 1 or others - {protocol.CONFIG} or not isinstance(settings, ConfigRecord):
        raise TransportError(
            f"a message that asks for an update has the records {sorted(content)}, and with secure aggregation or "
            f"client privacy one of arrays and one of settings, {protocol.CONFIG!r}, are allowed"
        )
    arrays = next(iter(content.array_records.values()))
    if strange := [name for name, array in arrays.items() if np.dtype(array.dtype).kind not in _SUMMED + _KEPT]:
        raise TransportError(
            f"the array {strange[0]} is of the type {arrays[strange[0]].dtype}, and real numbers are allowed"
        )
    if not floating(arrays):
        raise TransportError("the model has no floating numbers: there is nothing that could be averaged")
    return arrays


def floating(arrays: Mapping[str, Array]) -> frozenset[str]:
    """Return the names of the arrays that are averaged. All of them are an update: a model's buffers too."""
    return frozenset(name for name, array in arrays.items() if np.dtype(array.dtype).kind in _SUMMED)


def own_folder(folder: str | Path) -> Path:
    """Return a folder of keys and counts, with a leading ``~`` for the home of the user.

    Raises:
        ConfigError: it is relative: started elsewhere, the program would make other keys, and count from zero.
    """
    place = Path(folder).expanduser()
    if not place.is_absolute():
        raise ConfigError(
            f"the folder {str(folder)!r} is relative, so that keys, and what was spent, would be others wherever the "
            'program is started: give an absolute one, or one in the home of the user, such as "~/.my-app"'
        )
    return place
