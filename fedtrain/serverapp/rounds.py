"""The rounds: draw a cohort, ask it, collect its replies, aggregate them, record, evaluate."""

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod

import numpy as np
import torch
from flwr.app import Message
from torch import Tensor

from fedtrain.config.strategies import results_needed, shortage
from fedtrain.errors import AggregationError, BudgetError, RunError, TaskError, TooFewResultsError
from fedtrain.flower.client_dp import release_round, release_total
from fedtrain.flower.collectors import Collected
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.records import to_array, view
from fedtrain.flower.messages.training import CohortRequest, PrivateTerms, train_settings
from fedtrain.flower.shares import decoded, sum_of
from fedtrain.flower.totals import Outcome
from fedtrain.memory import give_back_memory, give_back_models
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.privacy.noise import RandomSource, open_source
from fedtrain.report import Dropped, Evaluation, RoundEntry, SecureAggregation, best_of
from fedtrain.report.evaluation import kept
from fedtrain.seeding import derive_seed
from fedtrain.serverapp.aggregation import Aggregation
from fedtrain.serverapp.assembly import assemble
from fedtrain.serverapp.audit_trail import AuditTrail
from fedtrain.serverapp.channel import Channel
from fedtrain.serverapp.checkpoint import RunState
from fedtrain.serverapp.evaluation import evaluate
from fedtrain.serverapp.preparation import Preparation
from fedtrain.serverapp.sampling import DrawnGrid
from fedtrain.tasks import load_weights, shared_names, weights_of
from fedtrain.tasks.weights import forget_weights
from fedtrain.training import learning_rate

_log = logging.getLogger(__name__)

# An error's whole traceback is in the log; the report holds its first line and its end, one of which has the cause.
_REASON_LENGTH = 2000
_FIRST_LENGTH = 300
# Outputs of a model for the test records, of one evaluation: 64 MB.
_KEPT = 1 << 24


class Rounds:
    """Runs rounds over a grid, each from the state after the one before.

    What a round does depends on the state and the configuration alone: everything random is seeded by its round, so a
    run that continues from a checkpoint reaches the same model as one that was never interrupted.

    Attributes:
        outputs: what the model returned for the test records at the last and at the best evaluation, by round, where
            they were made here and are not too many to keep.
    """

    def __init__(self, channel: Channel, preparation: Preparation, trail: AuditTrail | None, *, done: int) -> None:
        """Compose the grid and the strategy.

        Args:
            channel: the way to the clients.
            preparation: what was made before.
            trail: the record of a private run; ``None`` without privacy.
            done: rounds that are complete.
        """
        self._preparation = preparation
        self._experiment = preparation.experiment
        self._mechanism = mechanism_of(preparation.experiment)
        self._clients = dict(channel.clients)
        self._sealed = channel.sealed
        self._trail = trail
        self._trained = shared_names(preparation.task, preparation.model)
        self._aggregation = Aggregation(self._experiment, trained=self._trained, private=self._mechanism.private)
        self._parts = assemble(channel, preparation, trail, done=done)
        self._noise = None if trail is None else self._mechanism.noise(trail.plan, self._draws)
        self._repeatable = False
        self.outputs: dict[int, list[Tensor]] = {}

    def may_ask_again(self, error: Exception) -> bool:
        """Say whether the round that just failed with an error may be asked again in this run.

        Not where clients were asked to unmask its sum: with the sum of the second attempt, of other clients, it would
        show the server single updates. A `BudgetError` stays what it is.
        """
        return self._repeatable and type(error) in {TooFewResultsError, AggregationError}

    def next(
        self,
        state: RunState,
        *,
        on_start: Callable[[int, tuple[int, ...]], None],
        on_reply: Callable[[int | None], None],
    ) -> RunState:
        """Run the next round and return the state after it.

        ``on_start`` is called with the round and its cohort before anything is sent, ``on_reply`` with each client that
        has answered.

        Raises:
            BudgetError: so many clients refused that the round cannot be used; the state before it still stands.
            RunError: the round failed; likewise.
        """
        started = time.monotonic()
        self._repeatable = False
        number = state.round_number + 1
        rate = learning_rate(self._experiment.training, round_number=number, rounds=self._experiment.federation.rounds)
        asked = self._ask(state, number, rate, self._parts.sampler.draw(number))
        cohort = tuple(self._clients[message.metadata.dst_node_id] for message in asked.messages)
        self._record_asked(asked, cohort)
        on_start(number, cohort)
        collected = self._parts.collector.collect(asked, on_reply=lambda node: on_reply(self._clients.get(node)))
        self._repeatable = collected.outcome is None or not collected.outcome.unmasking
        entry = self._entry(number, cohort, collected, rate, clip_norm=state.clip_norm or None)
        self._require(entry, collected.outcome)
        self._repeatable = False  # from here on the round is released
        state = self._aggregated(state, number, collected, rate=rate)
        silent = () if collected.outcome is None else collected.outcome.silent
        del collected  # replies, or the sum
        give_back_models(sum(value.nbytes for value in state.model.values()))
        self._record_completed(asked, entry, silent, state)
        last = number == self._experiment.federation.rounds
        if last or number % self._experiment.server.evaluate_every == 0:
            state = self.evaluated(state)
        seconds = time.monotonic() - started
        return replace(
            state,
            round_log=(*state.round_log, entry.model_copy(update={"seconds": seconds})),
            seconds=state.seconds + seconds,
        )

    def _ask(self, state: RunState, number: int, rate: float, drawn: Sequence[int]) -> CohortRequest:
        """Have the strategy write the messages of a round to the nodes that were drawn, in their order."""
        terms = None
        if (trail := self._trail) is not None:
            noise = trail.plan.noise_multiplier
            terms = PrivateTerms(run=trail.run, noise_multiplier=noise, clip_norm=state.clip_norm)
        settings = train_settings(learning_rate=rate, terms=terms)
        # The strategy adds its settings to those that it is given. It samples all the nodes that were drawn, from
        # Python's global generator, which belongs to the caller's program.
        state_of_the_caller = random.getstate()
        try:
            grid = DrawnGrid(self._parts.grid, drawn)
            arrays, messages = self._aggregation.ask(number, state.model, settings, grid, state.strategy)
        finally:
            random.setstate(state_of_the_caller)
        # It shuffles the nodes, and sums of floating-point numbers depend on the order.
        place = {node: index for index, node in enumerate(drawn)}
        ordered = sorted(messages, key=lambda message: place[message.metadata.dst_node_id])
        for message in ordered:
            message.metadata.ttl = self._experiment.federation.deadline
        return CohortRequest(round_number=number, messages=tuple(ordered), arrays=arrays, settings=settings)

    def _record_asked(self, asked: CohortRequest, cohort: tuple[int, ...]) -> None:
        """Note durably in a private run what is about to be asked."""
        if self._trail is None or self._parts.ledger is None:
            return
        summed = self._parts.summed
        self._trail.asked(asked.round_number, cohort, asked.digest, sealed=self._sealed, secagg=summed)
        self._parts.ledger.begin(asked)

    def _record_completed(
        self, asked: CohortRequest, entry: RoundEntry, silent: tuple[int, ...], state: RunState
    ) -> None:
        """Note durably in a private run what came of a round."""
        if self._trail is not None:
            aggregate = protocol.arrays_digest(self._aggregation.as_sent(state.model))
            self._trail.completed(entry, asked.digest, aggregate=aggregate, silent=silent)

    def _entry(
        self, number: int, cohort: tuple[int, ...], collected: Collected, rate: float, *, clip_norm: float | None
    ) -> RoundEntry:
        outcome = collected.outcome
        if outcome is None:
            deadline = self._experiment.federation.deadline
            dropped = dropped_of(cohort, collected.replies, self._clients, deadline=deadline)
        else:
            dropped = dropped_of_sum(cohort, outcome)
        lost = {entry.client for entry in dropped}
        return RoundEntry(
            round=number,
            cohort=cohort,
            completed=tuple(client for client in cohort if client not in lost),
            dropped=dropped,
            sealed=self._sealed,
            secagg=None if outcome is None or outcome.total is None else aggregation_of(outcome),
            clip_norm=clip_norm,
            learning_rate=rate,
            seconds=0.0,
        )

    def _require(self, entry: RoundEntry, outcome: Outcome | None) -> None:
        minimum = results_needed(self._experiment)
        self._require_noise(entry)
        # A Poisson cohort may be empty by chance; its round is noise, and counts.
        completed, dropped = entry.completed or (), entry.dropped or ()
        if self._mechanism.requires.hidden_cohorts or len(completed) >= minimum:
            if outcome is not None and outcome.total is None:
                why = readable(outcome.problem)
                raise AggregationError(f"round {entry.round} was aborted: {why}{self._not_again(outcome)}")
            return
        refused = [drop.client for drop in dropped if self._trail and drop.client in self._trail.refused]
        kind = BudgetError if len(completed) + len(refused) >= minimum else TooFewResultsError
        raise kind(
            f"round {entry.round} has {len(completed)} usable results of {len(completed) + len(dropped)} clients, and "
            f"{shortage(self._experiment)}:\n{_reasons(entry)}"
        )

    def _not_again(self, outcome: Outcome) -> str:
        """Return why a round is not asked again in this run, and what to set so that another one is."""
        federation = self._experiment.federation
        if not federation.retries or not outcome.unmasking:
            return ""
        return (
            "\nclients were asked to unmask its sum, so it is not asked again in this run: a sum of fewer than "
            f"federation.min_results = {federation.min_results} is not unmasked. Sites may want more in a sum: set it "
            "to the largest minimum_cohort of their site files"
        )

    def _require_noise(self, entry: RoundEntry) -> None:
        """Refuse to sum what has less noise in it than is counted on. The clients stay charged."""
        shares = None if self._trail is None else self._trail.plan.spec.shares
        completed = len(entry.completed or ())
        if shares is not None and completed < shares.threshold:
            raise AggregationError(
                f"round {entry.round} was aborted: {completed} of {shares.members} clients delivered their sums with "
                f"shares of the noise, and it takes {shares.threshold}; the round stays charged:\n{_reasons(entry)}"
            )

    def _aggregated(self, state: RunState, number: int, collected: Collected, *, rate: float) -> RunState:
        """Return the state with the model that the strategy makes of what was collected."""
        replies, clip_norm = collected.replies, state.clip_norm
        if self._trail is not None and self._mechanism.adds_noise:
            replies, clip_norm = self._released(state, number, collected)
        elif self._trail is not None and self._mechanism.shares_noise:
            replies = self._decoded(self._trail.plan, state, collected, rate=rate)
        model, memory = self._aggregation.aggregate(number, state.model, replies)
        return replace(state, round_number=number, model=model, strategy=memory, clip_norm=clip_norm)

    def _released(self, state: RunState, number: int, collected: Collected) -> tuple[list[Message], float]:
        """Return the noisy mean in the place of the replies, and the clipping norm of the next round."""
        assert self._trail is not None
        assert self._noise is not None
        release: Callable[..., tuple[list[Message], float]] = partial(release_round, collected.replies)
        if (outcome := collected.outcome) is not None and outcome.total is not None:
            release = partial(release_total, outcome.total, clients=len(outcome.masked))
        return release(
            sent=self._aggregation.as_sent(state.model),
            plan=self._trail.plan,
            clip_norm=state.clip_norm,
            source=self._noise(number),
            trainable=self._trained,
        )

    def _draws(self, number: int) -> RandomSource:
        """Return the source of the draws of a round."""
        privacy, seed = self._experiment.privacy, self._experiment.seed
        return open_source(privacy.noise, derive_seed(seed, "noise", number))

    def _decoded(self, plan: PrivacyPlan, state: RunState, collected: Collected, *, rate: float) -> list[Message]:
        """Return the model that a sum of whole numbers gives, in the place of the replies."""
        sent, outcome = self._aggregation.as_sent(state.model), collected.outcome
        give = partial(decoded, sent=sent, trained=self._trained, plan=plan, learning_rate=rate)
        if outcome is not None and outcome.total is not None:
            return give(outcome.total.update, clients=len(outcome.masked))
        total, clients = sum_of(collected.replies, sent=sent, trained=self._trained)
        return give(total, clients=clients)

    def evaluated(self, state: RunState) -> RunState:
        """Evaluate the model of a state centrally and return the state with the result added.

        After training, an evaluation that fails measures nothing and is a warning: what the round has spent would be
        lost with it.

        Raises:
            TaskError: the code of the task fails, before anything is trained.
        """
        released, model = self._preparation.released(state.model), self._preparation.released_model
        load_weights(model, {name: torch.from_numpy(np.array(value)) for name, value in released.items()})
        test = self._preparation.inputs.test
        outputs = _Outputs(len(test))
        try:
            evaluation = evaluate(
                model,
                self._preparation.task,
                test,
                round_number=state.round_number,
                kept=outputs.add,
            )
        except (TaskError, RunError) as error:
            if state.round_number == 0:
                raise
            _log.warning("round %d is not evaluated, and its model is kept: %s", state.round_number, error)
            evaluation, outputs = Evaluation(round=state.round_number), _Outputs(0)
        forget_weights(model)
        give_back_memory()
        history = kept((*state.evaluations, evaluation), self._preparation.metrics)
        best = best_of(history, self._preparation.metrics)
        needed = {state.round_number} if best is None else {state.round_number, best.round}
        made = {**self.outputs, state.round_number: outputs.parts}
        self.outputs = {number: parts for number, parts in made.items() if number in needed and parts}
        return replace(state, evaluations=history)


class _Outputs:
    """What a model returned for the test records, unless it is too much to keep.

    All is in one piece of memory. Small pieces would lie between the large ones that a model makes and frees, and keep
    the allocator from putting these together: it would take more of the system at each evaluation.

    Args:
        records: how many there are.

    Attributes:
        parts: copies on the CPU, in their order; empty if it is too much, or parts differ in more than their length.
    """

    def __init__(self, records: int) -> None:
        self.parts: list[Tensor] = []
        self._records = records
        self._room: Tensor | None = None  # for the parts that are still to come

    def add(self, outputs: Tensor) -> None:
        """Take a part."""
        if self._room is None:
            shape = outputs.shape[1:]
            fits = self._records * prod(shape) <= _KEPT
            self._room = torch.empty((self._records if fits else 0, *shape), dtype=outputs.dtype)
        part, self._room = self._room[: len(outputs)], self._room[len(outputs) :]
        if (part.shape, part.dtype) == (outputs.shape, outputs.dtype):
            self.parts.append(part.copy_(outputs.detach()))
        else:
            self.parts, self._room = [], self._room[:0]


def _reasons(entry: RoundEntry) -> str:
    return "\n".join(f"client {drop.client}: {drop.reason}" for drop in entry.dropped or ())


def initial_state(preparation: Preparation) -> RunState:
    """Return the state before the first round."""
    tensors = weights_of(preparation.model)
    return RunState(
        round_number=0,
        # As bytes that are sent, so that there is no second copy for the first round.
        model={name: view(name, to_array(tensor.cpu().clone().numpy())) for name, tensor in tensors.items()},
        strategy={},
        evaluations=(),
        round_log=(),
        clip_norm=preparation.plan.spec.clip_norm if preparation.plan else 0.0,
        seconds=0.0,
    )


def dropped_of(
    cohort: Sequence[int], replies: Sequence[Message], clients: Mapping[int, int], *, deadline: float
) -> tuple[Dropped, ...]:
    """Return the clients of a cohort whose replies cannot be used, in the cohort's order."""
    answered = {clients[reply.metadata.src_node_id]: reply for reply in replies}
    dropped = []
    for client in cohort:
        if client not in answered:
            reason = f"no answer within federation.deadline = {deadline:g} seconds"
            dropped.append(Dropped(client=client, reason=reason))
        elif answered[client].has_error():
            dropped.append(Dropped(client=client, reason=readable(answered[client].error.reason or "")))
    return tuple(dropped)


def dropped_of_sum(cohort: Sequence[int], outcome: Outcome) -> tuple[Dropped, ...]:
    """Return the clients of a cohort whose updates are not in a sum, in the cohort's order."""
    return tuple(
        Dropped(client=client, reason=readable(outcome.dropped[client]))
        for client in cohort
        if client in outcome.dropped
    )


def aggregation_of(outcome: Outcome) -> SecureAggregation:
    """Return how a sum came about."""
    parameters = outcome.parameters
    return SecureAggregation(
        threshold=parameters.threshold,
        neighbours=parameters.neighbours,
        bits=parameters.bits,
        lost_masking=len(outcome.dropped),
        lost_unmasking=len(outcome.silent),
    )


def readable(reason: str) -> str:
    """Return what a client says went wrong, in a form that can do no harm in a report or on a terminal."""
    clean = "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}"
        for letter in reason.expandtabs()
    )
    clean = clean.strip()
    if len(clean) <= _REASON_LENGTH:
        return clean or "no reason given"
    first = clean.partition("\n")[0][:_FIRST_LENGTH]
    return f"{first}\n…\n{clean[len(first) + 3 - _REASON_LENGTH :]}"
