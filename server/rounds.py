"""The rounds: send the model, aggregate what comes back, evaluate, save."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.app.exception import AppExitException
from flwr.serverapp import Grid

from fedtrain.config.digest import experiment_digest
from fedtrain.errors import RunError, TooFewResultsError
from fedtrain.flower import protocol
from fedtrain.flower.checked import CheckedGrid
from fedtrain.flower.participation import ParticipationGrid
from fedtrain.flower.wrapper import collect
from fedtrain.report import Dropped, RoundEntry
from fedtrain.seeding import derive_seed
from fedtrain.training import learning_rate
from server.evaluation import evaluate
from server.preparation import Preparation
from server.state import Arrays, RunState
from server.strategies import build_strategy, remembered, remind

# An error's whole traceback is in the log; the report holds its end, where the cause is.
_REASON_LENGTH = 2000


class Rounds:
    """Runs rounds over a grid, each from the state after the one before.

    What a round does depends on the state and the configuration alone: everything random is seeded by its round, so a
    run that continues from a checkpoint reaches the same model as one that was never interrupted.
    """

    def __init__(self, grid: Grid, clients: dict[int, int], preparation: Preparation, start: RunState) -> None:
        """Compose the grid and the strategy for a run that stands at ``start``."""
        self._preparation = preparation
        self._experiment = preparation.experiment
        self._clients = clients
        self._strategy = build_strategy(self._experiment)
        private = preparation.plan is not None
        self._grid = ParticipationGrid(
            CheckedGrid(
                grid,
                metrics=frozenset({protocol.WEIGHT} if private else {protocol.WEIGHT, protocol.LOSS}),
                weight_key=protocol.WEIGHT,
                public_weight=1.0 if private else None,
            ),
            clients=clients,
            maximum=preparation.plan.spec.rounds if preparation.plan else self._experiment.federation.rounds,
            cohort=self._experiment.federation.cohort,
            counts=Counter(client for cohort in start.charged.values() for client in cohort),
        )
        self._run = experiment_digest(self._experiment)

    def next(
        self, state: RunState, *, on_start: Callable[[int, tuple[int, ...]], None], on_reply: Callable[[], None]
    ) -> RunState:
        """Run the next round and return the state after it.

        ``on_start`` is called with the round and its cohort before anything is sent; from then on it is charged.

        Raises:
            RunError: the round failed; the state before it still stands.
        """
        started = time.monotonic()
        number = state.round_number + 1
        rate = learning_rate(self._experiment.training, round_number=number, rounds=self._experiment.federation.rounds)
        messages = self._messages(state, number, rate)
        cohort = tuple(self._clients[message.metadata.dst_node_id] for message in messages)
        on_start(number, cohort)
        replies = collect(
            self._grid,
            messages,
            timeout=self._experiment.federation.deadline,
            on_reply=lambda _: on_reply(),
        )
        entry = self._entry(number, cohort, replies, rate)
        self._require(entry)
        model = self._aggregate(state, number, replies)
        state = replace(
            state,
            round_number=number,
            model=model,
            strategy=remembered(self._strategy),
            charged={**state.charged, number: cohort},
        )
        last = number == self._experiment.federation.rounds
        if last or number % self._experiment.server.evaluate_every == 0:
            state = self.evaluated(state)
        seconds = time.monotonic() - started
        return replace(
            state,
            round_log=(*state.round_log, entry.model_copy(update={"seconds": seconds})),
            seconds=state.seconds + seconds,
        )

    def _messages(self, state: RunState, number: int, rate: float) -> list[Message]:
        config = ConfigRecord({protocol.LEARNING_RATE: rate, protocol.RUN: self._run})
        if self._preparation.plan is not None:
            config[protocol.NOISE_MULTIPLIER] = self._preparation.plan.noise_multiplier
        arrays = ArrayRecord({name: Array(np.asarray(value)) for name, value in state.model.items()})
        remind(self._strategy, state.strategy)
        # Flower's strategies draw cohorts from Python's global generator.
        random.seed(derive_seed(self._experiment.seed, "cohort", number))
        messages = list(self._strategy.configure_train(number, arrays, config, self._grid))
        for message in messages:
            message.metadata.ttl = self._experiment.federation.deadline
        return messages

    def _entry(self, number: int, cohort: tuple[int, ...], replies: list[Message], rate: float) -> RoundEntry:
        answered = {self._clients[reply.metadata.src_node_id]: reply for reply in replies}
        dropped = []
        for client in cohort:
            if client not in answered:
                reason = f"no answer within federation.deadline = {self._experiment.federation.deadline:g} seconds"
                dropped.append(Dropped(client=client, reason=reason))
            elif answered[client].has_error():
                dropped.append(Dropped(client=client, reason=_readable(answered[client].error.reason or "")))
        lost = {entry.client for entry in dropped}
        return RoundEntry(
            round=number,
            cohort=cohort,
            completed=tuple(client for client in cohort if client not in lost),
            dropped=tuple(dropped),
            learning_rate=rate,
            seconds=0.0,
        )

    def _require(self, entry: RoundEntry) -> None:
        minimum = self._experiment.federation.min_results
        if len(entry.completed) < minimum:
            reasons = "\n".join(f"client {drop.client}: {drop.reason}" for drop in entry.dropped)
            raise TooFewResultsError(
                f"round {entry.round} has {len(entry.completed)} usable results of {len(entry.cohort)} clients, and "
                f"federation.min_results = {minimum}:\n{reasons}"
            )

    def _aggregate(self, state: RunState, number: int, replies: list[Message]) -> Arrays:
        name = self._experiment.server.strategy
        try:
            arrays, _ = self._strategy.aggregate_train(number, replies)
        except (AppExitException, ValueError, TypeError, ArithmeticError) as error:
            raise RunError(f"{name} cannot aggregate round {number}: {error}") from error
        if arrays is None:
            raise RunError(f"{name} gave no model in round {number}")
        model: Arrays = {}
        for key, before in state.model.items():
            # Averaging turns integers and half floats into other types; clients are sent what they expect.
            value = arrays[key].numpy()
            model[key] = (value if before.dtype.kind in "fc" else np.rint(value)).astype(before.dtype)
            if not np.isfinite(model[key]).all():
                raise RunError(f"{name} made {key} not finite in round {number}; lower the learning rates")
        return model

    def evaluated(self, state: RunState) -> RunState:
        """Evaluate the model of a state centrally and return the state with the result added."""
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.model.items()}
        self._preparation.model.load_state_dict(tensors)
        evaluation = evaluate(
            self._preparation.model,
            self._preparation.task,
            self._preparation.store.test,
            round_number=state.round_number,
        )
        return replace(state, evaluations=(*state.evaluations, evaluation))


def _readable(reason: str) -> str:
    """Return what a client says went wrong, in a form that can do no harm in a report or on a terminal."""
    clean = "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}"
        for letter in reason.expandtabs()
    )
    return clean.strip()[-_REASON_LENGTH:] or "no reason given"


def initial_state(preparation: Preparation) -> RunState:
    """Return the state before the first round."""
    tensors = preparation.model.state_dict()
    return RunState(
        round_number=0,
        model={name: cast("np.ndarray", tensor.cpu().numpy().copy()) for name, tensor in tensors.items()},
        strategy={},
        evaluations=(),
        round_log=(),
        charged={},
        seconds=0.0,
    )
