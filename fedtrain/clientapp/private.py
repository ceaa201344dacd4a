"""A round in a private mode: the client's own checks, the reservation, the local step, and what is shown of the ledger.

The order is the guarantee. The plan is checked against the client's own site file and ledger; the reservation is on the
disk before a record is touched; the entry for the update is on the disk before the update leaves. A crash leaves a
reservation too many, never one too few.
"""

from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedtrain.clientapp.node import Node, open_node
from fedtrain.clientapp.reserving import reserve, reserved_run
from fedtrain.clientapp.site import checked_plan
from fedtrain.clientapp.work import Work
from fedtrain.crypto import SignedEnvelope
from fedtrain.errors import BudgetError, PrivacySpecError
from fedtrain.flower.client_dp import clip_reply
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.introduction import ShownLedger
from fedtrain.ledger import Ledger
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.noise import open_source
from fedtrain.tasks import refuse_batch_statistics
from fedtrain.training import PlainTrainer, Records
from fedtrain.trust import commit


def answer_privately(content: RecordDict, work: Work, records: Records) -> RecordDict:
    """Train under the plan, if this client's budget allows it, and return the reply's content.

    The reply holds the arrays, public constants, and the ledger's new entries. In client privacy it also says whether
    the update was within the clipping norm, which the server is trusted with. What opens the commitment to the update
    is shown only to a server that sees the update: to another it would confirm a guess. A refusal holds no arrays, and
    a signed statement of the ledger.

    Raises:
        ClientError: in client privacy with secret cohorts, this client has not reserved the run.
        PrivacySpecError: likewise, the noise does not keep the promise. A statement would tell who was drawn.
    """
    experiment, run = work.site.experiment, cast("str", work.config[protocol.RUN])
    known = cast("int", cast("ConfigRecord", content[protocol.LEDGER])[protocol.KNOWN])
    noise_multiplier = cast("float", work.config[protocol.NOISE_MULTIPLIER])
    node = open_node(experiment, work.host)
    dataset = node.dataset_of(records)
    with node.open_ledger(dataset) as ledger:
        if experiment.privacy.secret_cohorts:
            plan = checked_plan(experiment, noise_multiplier)
            reservation = reserved_run(ledger, plan, run=run)
        else:
            try:
                plan = checked_plan(experiment, noise_multiplier)
                reservation = reserve(ledger, node, work, plan, run=run)
            except (BudgetError, PrivacySpecError) as refusal:
                statement = ledger.statement(
                    run=run, round_number=work.round_number, policy=node.policy, refusal=str(refusal)
                )
                return RecordDict({protocol.LEDGER: shown(node, ledger, known, statement=statement)})
    metrics = MetricRecord({protocol.WEIGHT: 1.0})
    if experiment.privacy.mode == "record":
        arrays = _by_record(work, records, plan)
    else:
        arrays, within = _by_client(work, records, plan)
        metrics[protocol.WITHIN_CLIP] = float(within)
    nonce = b""
    with node.open_ledger(dataset) as ledger:
        if not experiment.privacy.secret_cohorts:
            nonce = node.nonce(reservation)
            ledger.settle(reservation, commit(protocol.arrays_digest(arrays), nonce))
        record = shown(node, ledger, known, nonce=b"" if protocol.SECAGG in content else nonce)
    return RecordDict({protocol.ARRAYS: arrays, protocol.METRICS: metrics, protocol.LEDGER: record})


def shown(
    node: Node, ledger: Ledger, known: int, *, statement: SignedEnvelope | None = None, nonce: bytes = b""
) -> ConfigRecord:
    """Return what the server is shown: the entries that it does not know, and a statement if there is one."""
    entries = ledger.envelopes_from(known)
    return ShownLedger(key=node.identity.public, entries=entries, statement=statement, nonce=nonce).to_record()


def _by_record(work: Work, records: Records, plan: PrivacyPlan) -> ArrayRecord:
    """Return the weights after noisy steps on the records, all else as received."""
    from fedtrain.training.private import (  # noqa: PLC0415 - Opacus takes seconds to import
        PrivateTrainer,
        refuse_untrainable,
    )

    experiment = work.site.experiment
    refuse_untrainable(work.model)
    source = open_source(experiment.privacy.noise, work.settings.seed)
    trainer = PrivateTrainer(config=experiment.training, plan=plan, source=source)
    trainer.train(work.model, work.site.task, records, work.settings)
    trained, shared = ArrayRecord(work.model.state_dict()), work.shared
    return ArrayRecord({name: trained[name] if name in shared else array for name, array in work.received.items()})


def _by_client(work: Work, records: Records, plan: PrivacyPlan) -> tuple[ArrayRecord, bool]:
    """Return the weights after plain steps, with the whole change clipped, and whether it was within the norm."""
    refuse_batch_statistics(work.model)
    PlainTrainer(config=work.site.experiment.training).train(work.model, work.site.task, records, work.settings)
    # A fixed norm is the plan's, whatever the message says; an adaptive one follows the server, who is trusted with it.
    norm = plan.spec.clip_norm if plan.spec.adaptive is None else cast("float", work.config[protocol.CLIP_NORM])
    trained = ArrayRecord(work.model.state_dict())
    return clip_reply(received=work.received, trained=trained, trainable=work.shared, clip_norm=norm)
