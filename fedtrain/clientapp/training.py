"""One round of training at one client: policy, reservation, training, reply.

The order is the guarantee. In a private mode the plan is checked against the client's own site file and ledger; the
reservation is on the disk before a record is touched; the entry for the update is on the disk before the update leaves.
A crash leaves a reservation too many, never one too few. Others may use the ledger while the client trains.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from flwr.app import ArrayRecord, RecordDict
from torch import nn

from fedtrain.clientapp.context import ClientContext
from fedtrain.clientapp.policy import checked_plan, refuse_mode, refuse_unmasked, reserve, reserved_run
from fedtrain.clientapp.site import Site
from fedtrain.crypto import commit
from fedtrain.engine.together import meet
from fedtrain.errors import BudgetError, PrivacySpecError, TaskError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.records import to_array
from fedtrain.flower.messages.training import PrivateTerms, TrainReply, TrainRequest
from fedtrain.ledger import Ledger, LedgerEntry
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.mechanisms import Arrays, Mechanism, mechanism_of
from fedtrain.privacy.noise import RandomSource, open_source
from fedtrain.seeding import derive_seed
from fedtrain.tasks import load_weights, refuse_changed, shared_names, trainable_names, weights_of
from fedtrain.tasks.weights import drained, forget_weights
from fedtrain.training import PlainTrainer, Records, RoundSettings, check_model
from fedtrain.training.stacked import Part
from fedtrain.training.steps import seed_layers

if TYPE_CHECKING:
    from fedtrain.training.preflight import PreflightResult
    from fedtrain.training.private import PrivateTrainer


# With one step a round, a process checks a step of its own before the first one on a client's records, and before each
# 32nd from then on. A check takes several times as long as the step.
_UNCHECKED_STEPS = 31
_UNCHECKED: WeakKeyDictionary[nn.Module, dict[int, int]] = WeakKeyDictionary()
"""How many steps of a model need no check, by client. Another model may get the number of one that is gone."""
_REFUSED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Why models are refused. Another batch may not show it again, and the next client trains the same model."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one message asks of one client.

    Attributes:
        client: the client.
        site: what does not change from message to message.
        request: what the server asks for.
        settings: the settings of the round, as the local step takes them.
        model: a model of its own, with the received weights.
    """

    client: ClientContext
    site: Site
    request: TrainRequest
    settings: RoundSettings
    model: nn.Module

    @classmethod
    def of(cls, request: TrainRequest, client: ClientContext, site: Site) -> "Work":
        """Get ready to do what a message asks for."""
        # A process trains one client after another: what a layer keeps, or a failure leaves, must not reach the next.
        if not mechanism_of(client.experiment).private:
            forget_weights(site.model)  # its values are for the checks of private steps
        model = deepcopy(site.model)
        load_weights(model, request.arrays.to_torch_state_dict())
        settings = RoundSettings(
            learning_rate=request.learning_rate,
            proximal_mu=request.proximal_mu,
            seed=derive_seed(client.experiment.seed, "client", client.client, request.round_number),
        )
        seed_layers(settings.seed)
        return cls(client=client, site=site, request=request, settings=settings, model=model)

    @property
    def shared(self) -> frozenset[str]:
        """The names of what is trained and shared. In a private mode all else goes back as it came."""
        return shared_names(self.site.task, self.model)


@dataclass(frozen=True, kw_only=True)
class _Training:
    """The training of one message, as a mechanism asks for it.

    Attributes:
        work: what the message asks for.
        records: what it is trained on.
        preflight: how the gradients of single records are had, if the mechanism needs them.
    """

    work: Work
    records: Records
    preflight: "PreflightResult | None"

    def plainly(self) -> Arrays:
        """Train without privacy."""
        _trained_plainly(self.work, self.records)
        return self._trained()

    def by_record(self, plan: PrivacyPlan, source: RandomSource) -> Arrays:
        """Train by noisy steps on the records."""
        work = self.work
        self._refuse_again()
        with self._own_weights(plan) as (trainer, model):
            trainer.check(model, work.site.task, self.records, work.settings)
        self._trainer(plan, source).train(work.model, work.site.task, self.records, work.settings, checked=True)
        return self._trained()

    def gradient_sum(self, plan: PrivacyPlan, source: RandomSource, *, clip_norm: float) -> Arrays:
        """Return the sum of the clipped gradients of a batch, without noise."""
        # Nothing of the task ran between the preflight and here.
        work, step = self.work, self._trainer(plan, source, self.preflight).gradient_sum
        self._refuse_again()
        unchecked, client = _UNCHECKED.setdefault(work.site.model, {}), work.client.client
        if left := unchecked.get(client, 0):
            unchecked[client] = left - 1
        elif self._checked(plan, clip_norm=clip_norm):
            unchecked[client] = _UNCHECKED_STEPS
        sums, _ = step(work.model, work.site.task, self.records, work.settings, clip_norm=clip_norm, checked=True)
        return {name: total.cpu().numpy() for name, total in sums.items()}

    def _checked(self, plan: PrivacyPlan, *, clip_norm: float) -> bool:
        """Check the sum of another batch, and forget it; return whether there were records in it."""
        work = self.work
        with self._own_weights(plan) as (trainer, model):
            _, checked = trainer.gradient_sum(model, work.site.task, self.records, work.settings, clip_norm=clip_norm)
        return checked

    def _refuse_again(self) -> None:
        if why := _REFUSED.get(self.work.site.model):
            raise TaskError(why)

    @contextmanager
    def _own_weights(self, plan: PrivacyPlan) -> Iterator[tuple["PrivateTrainer", nn.Module]]:
        """Give a trainer with draws of its own, and the weights that the site's own model begins with, to check.

        A server could choose weights with which rounding differs between a batch and a single record, for some records
        alone: that the check fails, and the client refuses, would tell that such a record is in the batch.

        A model that is refused in the block is refused by this process from then on.
        """
        site, seed = self.work.site, self.work.settings.seed
        source = open_source(self.work.client.experiment.privacy.noise, derive_seed(seed, "check"))
        try:
            yield self._trainer(plan, source), deepcopy(site.model)
        except TaskError as error:
            _REFUSED[site.model] = str(error)
            raise
        seed_layers(seed)  # the round draws the same, whether there was a check or not

    def _trainer(
        self, plan: PrivacyPlan, source: RandomSource, result: "PreflightResult | None" = None
    ) -> "PrivateTrainer":
        from fedtrain.training.preflight import preflight  # noqa: PLC0415 - only where it is needed
        from fedtrain.training.private import PrivateTrainer  # noqa: PLC0415 - likewise

        site = self.work.site
        result = result or preflight(site.model, site.task, site.info)
        config = self.work.client.experiment.training
        return PrivateTrainer(config=config, plan=plan, source=source, preflight=result)

    def _trained(self) -> Arrays:
        weights, shared = weights_of(self.work.model), self.work.shared
        return {name: tensor.detach().cpu().numpy() for name, tensor in weights.items() if name in shared}


def train(content: RecordDict, client: ClientContext, site: Site) -> RecordDict:
    """Train the received model on this client's records and return the reply's content.

    In a private mode the reply holds what the mode allows. Otherwise it holds the weights, the number of records and
    the mean loss.

    Raises:
        TransportError: the request is malformed; it names what.
        BudgetError: the site file does not allow training in this mode.
    """
    work = Work.of(TrainRequest.from_records(content), client, site)
    refuse_mode(client)
    refuse_unmasked(client, masked=work.request.masked)
    mechanism = mechanism_of(client.experiment)
    if mechanism.private:
        return _train_privately(work, mechanism).to_records()
    inputs = site.inputs(client.client)
    metrics = {protocol.WEIGHT: float(len(inputs)), protocol.LOSS: _trained_plainly(work, inputs)}
    received, own = work.request.arrays, trainable_names(work.model) - work.shared
    arrays = ArrayRecord()
    for name, tensor in drained(work.model):
        arrays[name] = received[name] if name in own else to_array(tensor.cpu().numpy())
    return TrainReply(arrays=arrays, metrics=metrics).to_records()


def _trained_plainly(work: Work, records: Records) -> float:
    """Train the model of a message without privacy, and return the mean loss."""
    loss = meet(_Part(work=work, records=records), _trained_together)
    refuse_changed(work.site.model, work.model)
    work.model.zero_grad(set_to_none=True)  # as large as the model, and so is the reply
    return loss


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The training of one message without privacy, which may be done with that of others."""

    work: Work
    records: Records


def _trained_together(parts: Sequence[_Part]) -> list[float | BaseException]:
    """Train the models of messages that a process has at once, and return the mean loss of each, or what it raised."""
    first = parts[0].work
    if len(parts) == 1:
        seed_layers(first.settings.seed)
        trainer = PlainTrainer(config=first.client.experiment.training)
        return [trainer.train(first.model, first.site.task, parts[0].records, first.settings)]
    return first.site.together.train_many(
        first.site.task,
        [Part(model=part.work.model, records=part.records, settings=part.work.settings) for part in parts],
    )


def _train_privately(work: Work, mechanism: Mechanism) -> TrainReply:
    """Train under the plan, if this client's budget allows it, and return the reply.

    The reply holds the arrays (or whole numbers in their place, where the noise is shared), public constants, and the
    ledger's new entries. Where updates are clipped it also says
    whether the update was within the clipping norm, which the server is trusted with. What opens the commitment to the
    update is shown only to a server that sees the update: to another it would confirm a guess. A refusal holds no
    arrays, and a signed statement of the ledger.

    Raises:
        TransportError: the request has no terms of a private run.
        ClientError: with secret cohorts, this client has not reserved the run.
        PrivacySpecError: likewise, the noise does not keep the guarantee. A statement would tell who was drawn.
    """
    client, request, site = work.client, work.request, work.site
    # On synthetic records, before anything is reserved.
    preflight = check_model(site.model, mechanism.requires, task=site.task, info=site.info)
    terms, known = request.required_terms(), request.known
    assert known is not None  # it is read with the terms
    per_round = not mechanism.reserves_run
    records = site.records(client.client)
    with client.open_ledger(client.dataset_of(records)) as ledger:
        if per_round:
            try:
                plan, reservation = _reserved(ledger, work, terms)
            except (BudgetError, PrivacySpecError) as error:
                statement = ledger.statement(
                    run=terms.run,
                    round_number=request.round_number,
                    policy=client.limits,
                    refusal=str(error),
                    name=client.name,
                )
                return TrainReply(ledger=client.consistency_proof(ledger, known, statement=statement))
        else:
            plan = checked_plan(client.experiment, terms.noise_multiplier)
            reservation = reserved_run(ledger, client, plan, run=terms.run)
        with ledger.released():
            training = _Training(work=work, records=site.inputs_of(client.client, records), preflight=preflight)
            arrays, metrics = _contributed(training, mechanism, plan, clip_norm=terms.clip_norm)
        nonce = b""
        if per_round:
            nonce = client.nonce(reservation)
            ledger.settle(reservation, commit(protocol.arrays_digest(arrays), nonce))
        proof = client.consistency_proof(ledger, known, nonce=b"" if request.masked else nonce)
    return TrainReply(arrays=arrays, metrics=metrics, ledger=proof)


def _reserved(ledger: Ledger, work: Work, terms: PrivateTerms) -> tuple[PrivacyPlan, LedgerEntry]:
    """Check the plan, and reserve what the round spends."""
    plan = checked_plan(work.client.experiment, terms.noise_multiplier)
    reservation = reserve(
        ledger,
        work.client,
        plan,
        run=terms.run,
        round_number=work.request.round_number,
        request=work.client.request_digest(work.request.arrays, work.request.settings),
    )
    return plan, reservation


def _contributed(
    training: _Training, mechanism: Mechanism, plan: PrivacyPlan, *, clip_norm: float
) -> tuple[ArrayRecord, dict[str, float]]:
    """Return what leaves the client: what the mechanism sends of what is shared, all else as received, and metrics."""
    work = training.work
    received, shared = work.request.arrays, work.shared
    sent = mechanism.contribute(
        plan,
        training,
        {name: array.numpy() for name, array in received.items() if name in shared},
        clip_norm=clip_norm,
        source=open_source(work.client.experiment.privacy.noise, work.settings.seed),
    )
    metrics = {protocol.WEIGHT: 1.0}
    if sent.within is not None:
        metrics[protocol.WITHIN_CLIP] = float(sent.within)
    arrays = {name: to_array(sent.arrays[name]) if name in sent.arrays else array for name, array in received.items()}
    return ArrayRecord(arrays), metrics
