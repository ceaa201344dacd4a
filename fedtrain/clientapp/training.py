"""One round of training at one client: policy, reservation, training, reply.

The order is the guarantee. In a private mode the plan is checked against the client's own site file and ledger; the
reservation is on the disk before a record is touched; the entry for the update is on the disk before the update leaves.
A crash leaves a reservation too many, never one too few. Others may use the ledger while the client trains.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import nn

from fedtrain.clientapp.context import ClientContext
from fedtrain.clientapp.policy import checked_plan, refuse_mode, reserve, reserved_run
from fedtrain.clientapp.site import Site
from fedtrain.errors import BudgetError, PrivacySpecError
from fedtrain.flower.client_dp import clip_reply
from fedtrain.flower.messages import protocol
from fedtrain.ledger import Ledger, LedgerEntry
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.noise import open_source
from fedtrain.seeding import derive_seed
from fedtrain.tasks import refuse_batch_statistics, shared_names
from fedtrain.training import PlainTrainer, Records, RoundSettings
from fedtrain.trust import commit


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one message asks of one client.

    Attributes:
        client: the client.
        site: what does not change from message to message.
        received: the model as it was received.
        config: the server's settings for the round.
        settings: the same, as the local step takes them.
        model: a model of its own, with the received weights.
    """

    client: ClientContext
    site: Site
    received: ArrayRecord
    config: ConfigRecord
    settings: RoundSettings
    model: nn.Module

    @classmethod
    def of(cls, content: RecordDict, client: ClientContext, site: Site) -> "Work":
        """Read what a message asks for."""
        received = cast("ArrayRecord", content[protocol.ARRAYS])
        config = cast("ConfigRecord", content[protocol.CONFIG])
        # A process trains one client after another: what a layer keeps, or a failure leaves, must not reach the next.
        model = deepcopy(site.model)
        model.load_state_dict(received.to_torch_state_dict())
        round_number = cast("int", config[protocol.ROUND])
        settings = RoundSettings(
            learning_rate=cast("float", config[protocol.LEARNING_RATE]),
            proximal_mu=cast("float", config.get(protocol.PROXIMAL_MU, 0.0)),
            seed=derive_seed(client.experiment.seed, "client", client.client, round_number),
        )
        # A layer such as dropout draws from torch's global generator.
        torch.manual_seed(derive_seed(settings.seed, "layers"))
        return cls(client=client, site=site, received=received, config=config, settings=settings, model=model)

    @property
    def round_number(self) -> int:
        """The round, from 1."""
        return cast("int", self.config[protocol.ROUND])

    @property
    def run(self) -> str:
        """The id of the run, in a private mode."""
        return cast("str", self.config[protocol.RUN])

    @property
    def noise_multiplier(self) -> float:
        """The noise that the server has calibrated, in a private mode."""
        return cast("float", self.config[protocol.NOISE_MULTIPLIER])

    @property
    def shared(self) -> frozenset[str]:
        """The names of what is trained and shared. In a private mode all else goes back as it came."""
        return shared_names(self.site.task, self.model)


def train(content: RecordDict, client: ClientContext, site: Site) -> RecordDict:
    """Train the received model on this client's records and return the reply's content.

    In a private mode the reply holds what the mode allows. Otherwise it holds the weights, the number of records and
    the mean loss.

    Raises:
        BudgetError: the site file does not allow training in this mode.
    """
    work = Work.of(content, client, site)
    refuse_mode(client)
    records = site.records(client.client)
    if client.experiment.privacy.mode != "none":
        return _train_privately(content, work, records)
    loss = PlainTrainer(config=client.experiment.training).train(work.model, site.task, records, work.settings)
    metrics = MetricRecord({protocol.WEIGHT: float(len(records)), protocol.LOSS: loss})
    return RecordDict({protocol.ARRAYS: ArrayRecord(work.model.state_dict()), protocol.METRICS: metrics})


def _train_privately(content: RecordDict, work: Work, records: Records) -> RecordDict:
    """Train under the plan, if this client's budget allows it, and return the reply's content.

    The reply holds the arrays, public constants, and the ledger's new entries. In client privacy it also says whether
    the update was within the clipping norm, which the server is trusted with. What opens the commitment to the update
    is shown only to a server that sees the update: to another it would confirm a guess. A refusal holds no arrays, and
    a signed statement of the ledger.

    Raises:
        ClientError: in client privacy with secret cohorts, this client has not reserved the run.
        PrivacySpecError: likewise, the noise does not keep the promise. A statement would tell who was drawn.
    """
    client, run, noise_multiplier = work.client, work.run, work.noise_multiplier
    known = cast("int", cast("ConfigRecord", content[protocol.LEDGER])[protocol.KNOWN])
    per_round = not client.experiment.privacy.secret_cohorts
    with client.open_ledger(client.dataset_of(records)) as ledger:
        if per_round:
            try:
                plan, reservation = _reserved(ledger, work)
            except (BudgetError, PrivacySpecError) as error:
                statement = ledger.statement(
                    run=run, round_number=work.round_number, policy=client.limits, refusal=str(error)
                )
                return RecordDict({protocol.LEDGER: client.shown(ledger, known, statement=statement)})
        else:
            plan = checked_plan(client.experiment, noise_multiplier)
            reservation = reserved_run(ledger, plan, run=run)
        with ledger.released():
            arrays, metrics = _update(work, records, plan)
        nonce = b""
        if per_round:
            nonce = client.nonce(reservation)
            ledger.settle(reservation, commit(protocol.arrays_digest(arrays), nonce))
        record = client.shown(ledger, known, nonce=b"" if protocol.SECAGG in content else nonce)
    return RecordDict({protocol.ARRAYS: arrays, protocol.METRICS: metrics, protocol.LEDGER: record})


def _reserved(ledger: Ledger, work: Work) -> tuple[PrivacyPlan, LedgerEntry]:
    """Check the plan, and reserve what the round spends."""
    plan = checked_plan(work.client.experiment, work.noise_multiplier)
    reservation = reserve(
        ledger,
        work.client,
        plan,
        run=work.run,
        round_number=work.round_number,
        request=protocol.request_digest(work.received, work.config),
    )
    return plan, reservation


def _update(work: Work, records: Records, plan: PrivacyPlan) -> tuple[ArrayRecord, MetricRecord]:
    """Train, and return what leaves the client."""
    metrics = MetricRecord({protocol.WEIGHT: 1.0})
    if work.client.experiment.privacy.mode == "record":
        return _by_record(work, records, plan), metrics
    arrays, within = _by_client(work, records, plan)
    metrics[protocol.WITHIN_CLIP] = float(within)
    return arrays, metrics


def _by_record(work: Work, records: Records, plan: PrivacyPlan) -> ArrayRecord:
    """Return the weights after noisy steps on the records, all else as received."""
    from fedtrain.training.private import (  # noqa: PLC0415 - Opacus takes seconds to import
        PrivateTrainer,
        refuse_untrainable,
    )

    experiment = work.client.experiment
    refuse_untrainable(work.model)
    source = open_source(experiment.privacy.noise, work.settings.seed)
    trainer = PrivateTrainer(config=experiment.training, plan=plan, source=source)
    trainer.train(work.model, work.site.task, records, work.settings)
    trained, shared = ArrayRecord(work.model.state_dict()), work.shared
    return ArrayRecord({name: trained[name] if name in shared else array for name, array in work.received.items()})


def _by_client(work: Work, records: Records, plan: PrivacyPlan) -> tuple[ArrayRecord, bool]:
    """Return the weights after plain steps, with the whole change clipped, and whether it was within the norm."""
    refuse_batch_statistics(work.model)
    trainer = PlainTrainer(config=work.client.experiment.training)
    trainer.train(work.model, work.site.task, records, work.settings)
    # A fixed norm is the plan's, whatever the message says; an adaptive one follows the server, who is trusted with it.
    norm = plan.spec.clip_norm if plan.spec.adaptive is None else cast("float", work.config[protocol.CLIP_NORM])
    trained = ArrayRecord(work.model.state_dict())
    return clip_reply(received=work.received, trained=trained, trainable=work.shared, clip_norm=norm)
