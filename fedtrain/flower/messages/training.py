"""A round of training: what the server asks of a client, and what the client answers.

The strategy has its part in the request: to the settings of the server it adds the round, and what it wants besides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedtrain.errors import AggregationError, TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.introduction import ConsistencyProof
from fedtrain.flower.messages.records import Fields, arrays_in, config_in
from fedtrain.flower.messages.secagg import asks_for_a_sum

_REQUEST, _REPLY = "the request for training", "the reply of training"


@dataclass(frozen=True, kw_only=True)
class PrivateTerms:
    """What a private run says of itself in each round.

    Attributes:
        run: id of the run.
        noise_multiplier: that of the plan, above 0.
        clip_norm: that of the round, above 0.
    """

    run: str
    noise_multiplier: float
    clip_norm: float


def train_settings(*, learning_rate: float, terms: PrivateTerms | None = None) -> ConfigRecord:
    """Return the server's settings for a round, which are the same for all clients; the strategy adds its own."""
    settings = ConfigRecord({protocol.LEARNING_RATE: learning_rate})
    if terms is not None:
        settings[protocol.RUN] = terms.run
        settings[protocol.NOISE_MULTIPLIER] = terms.noise_multiplier
        settings[protocol.CLIP_NORM] = terms.clip_norm
    return settings


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What a client is asked to train.

    Attributes:
        arrays: the model.
        settings: all settings of the round as they came, those of the strategy among them.
        round_number: the round, from 1.
        learning_rate: that of the round, at least 0.
        proximal_mu: weight of the proximal term, at least 0.
        terms: those of a private run; ``None`` without privacy.
        known: entries of the client's ledger that the server knows; ``None`` without privacy.
        masked: whether the update is going to be masked, which a request of secure aggregation beside this one says.
    """

    arrays: ArrayRecord
    settings: ConfigRecord
    round_number: int
    learning_rate: float
    proximal_mu: float = 0.0
    terms: PrivateTerms | None = None
    known: int | None = None
    masked: bool = False

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message.

        Raises:
            TransportError: something is missing or malformed; it names what.
        """
        arrays = arrays_in(content, protocol.ARRAYS, what=_REQUEST)
        fields = Fields(content, protocol.CONFIG, what=_REQUEST)
        terms, known = None, None
        if protocol.RUN in fields:
            terms = PrivateTerms(
                run=fields.text(protocol.RUN),
                noise_multiplier=fields.number(protocol.NOISE_MULTIPLIER, positive=True),
                clip_norm=fields.number(protocol.CLIP_NORM, positive=True),
            )
            known = Fields(content, protocol.LEDGER, what=_REQUEST).whole(protocol.KNOWN)
        return cls(
            arrays=arrays,
            settings=config_in(content, protocol.CONFIG, what=_REQUEST),
            round_number=fields.whole(protocol.ROUND, least=1),
            learning_rate=fields.number(protocol.LEARNING_RATE),
            proximal_mu=fields.number(protocol.PROXIMAL_MU) if protocol.PROXIMAL_MU in fields else 0.0,
            terms=terms,
            known=known,
            masked=asks_for_a_sum(content),
        )

    def required_terms(self) -> PrivateTerms:
        """Return the terms of a private run.

        Raises:
            TransportError: there are none.
        """
        if self.terms is None:
            raise TransportError(f"{_REQUEST} cannot be used: it has no terms of a private run, and this client has")
        return self.terms


@dataclass(frozen=True, kw_only=True)
class CohortRequest:
    """What a cohort is asked to train in a round: a request for each client, which all ask for the same.

    Attributes:
        round_number: the round, from 1.
        messages: one for each client of the cohort, in its order; there may be none.
        arrays: the model.
        settings: all settings of the round.
    """

    round_number: int
    messages: tuple[Message, ...]
    arrays: ArrayRecord
    settings: ConfigRecord

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the request, read once for all clients.

        Raises:
            AggregationError: the clients are asked for different things.
        """
        digests = set(protocol.request_digests(self.messages)) or {protocol.request_digest(self.arrays, self.settings)}
        if len(digests) > 1:
            raise AggregationError(
                f"the clients of the cohort of round {self.round_number} were to be asked for different work, and that "
                "can neither be summed nor charged"
            )
        return digests.pop()


@dataclass(frozen=True, kw_only=True)
class TrainReply:
    """What a client answers.

    Attributes:
        arrays: the model after training; ``None`` where the client refuses.
        metrics: by name, the weight among them; empty where it refuses.
        ledger: what the client shows of its ledger; ``None`` without privacy.
    """

    arrays: ArrayRecord | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    ledger: ConsistencyProof | None = None

    def to_records(self) -> RecordDict:
        """Return it as the content of a message."""
        content = RecordDict()
        if self.arrays is not None:
            content[protocol.ARRAYS] = self.arrays
            content[protocol.METRICS] = MetricRecord(dict(self.metrics))
        if self.ledger is not None:
            content[protocol.LEDGER] = self.ledger.to_record()
        return content

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message. Signatures are not verified here.

        Raises:
            TransportError: something is missing or malformed; it names what.
            ForgeryError: the ledger record is malformed.
        """
        ledger = content.get(protocol.LEDGER)
        proof = ConsistencyProof.from_record(ledger) if isinstance(ledger, ConfigRecord) else None
        if protocol.ARRAYS not in content and proof is not None:
            return cls(ledger=proof)
        arrays, metrics = (
            arrays_in(content, protocol.ARRAYS, what=_REPLY),
            Fields(content, protocol.METRICS, what=_REPLY),
        )
        return cls(arrays=arrays, metrics={name: metrics.number(name, signed=True) for name in metrics}, ledger=proof)
