"""The part of the report that says what is promised to the owners of the records.

An auditor can compose ``events`` again, client by client, and must arrive at the same epsilons.
"""

import math
from collections import defaultdict
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedtrain.report.base import Count, NotNegative, Part, Positive, Round, ascending

SamplingRate = Annotated[float, Field(gt=0, le=1)]
Delta = Annotated[float, Field(gt=0, lt=1)]


class Mechanism(Part):
    """The mechanism that each client runs on its own records."""

    name: Literal["Poisson-sampled Gaussian"] = Field(description="the kind of mechanism")
    sampling_rate: SamplingRate = Field(description="probability with which each record enters a batch")
    noise_multiplier: Positive = Field(description="standard deviation of the noise over clip_norm")
    clip_norm: Positive = Field(description="bound on the L2 norm of each record's gradient")
    steps_per_round: Round = Field(description="noisy steps that a client takes in a round")
    expected_batch_size: Positive = Field(description="public divisor of the summed gradients, in records")


class ClientPrivacy(Part):
    """What one client has spent."""

    client: Count = Field(description="the client")
    epsilon: NotNegative = Field(description="epsilon of all its steps together, at privacy.delta")
    rounds: tuple[Round, ...] = Field(description="the rounds that were charged to it, each once, in order")
    steps: Count = Field(description="noisy steps that were charged to it")


class PrivacyEvent(Part):
    """One charge to one client: so many steps of the mechanism."""

    client: Count = Field(description="the client")
    round: Round = Field(description="the round")
    sampling_rate: SamplingRate = Field(description="sampling rate of these steps")
    noise_multiplier: Positive = Field(description="noise multiplier of these steps")
    steps: Round = Field(description="how many steps")


class PrivacyPoint(Part):
    """What the clients had spent after a round."""

    round: Count = Field(description="the round")
    max: NotNegative = Field(description="largest epsilon over the clients")
    median: NotNegative = Field(description="median epsilon over the clients")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.median > self.max:
            raise ValueError(f"round {self.round}: median = {self.median} is more than max = {self.max}")
        return self


class Privacy(Part):
    """The privacy guarantee, all that is needed to check it, and what it does not cover."""

    mode: Literal["none", "record"] = Field(description="none: no guarantee; record: DP-SGD at each client")
    epsilon: NotNegative | None = Field(description="largest epsilon over the clients; null in mode none")
    delta: Delta | None = Field(description="delta of every epsilon here; null in mode none")
    budget: Positive | None = Field(description="epsilon that no client may exceed; null if there is none")
    unit: Literal["record"] = Field(description="what is protected")
    neighbouring: Literal["add or remove one record"] = Field(description="which data sets are neighbours")
    mechanism: Mechanism | None = Field(description="the mechanism; null in mode none")
    accountant: str = Field(description="what computed the epsilons, with its version")
    random_source: str = Field(description="where the noise and the batches came from")
    composition: str = Field(description="how steps, rounds and clients are combined into one epsilon")
    statement: str = Field(description="the guarantee in plain language")
    not_covered: tuple[str, ...] = Field(description="what the guarantee does not cover, in plain language")
    clients: tuple[ClientPrivacy, ...] = Field(description="what each client has spent")
    events: tuple[PrivacyEvent, ...] = Field(description="every charge; the epsilons can be recomputed from them")
    curve: tuple[PrivacyPoint, ...] = Field(description="epsilon over the rounds; may be empty")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mode == "none":
            self._check_none()
        else:
            self._check_epsilon()
            self._check_charges()
        return self

    def _check_none(self) -> None:
        for name in ("epsilon", "delta", "budget", "mechanism", "clients", "events", "curve"):
            if getattr(self, name) not in (None, ()):
                raise ValueError(f'{name} is set, but mode = "none" gives no guarantee that it could describe')

    def _check_epsilon(self) -> None:
        if self.epsilon is None or self.delta is None or self.mechanism is None:
            raise ValueError('epsilon, delta and mechanism are to be set in mode = "record"')
        largest = max((client.epsilon for client in self.clients), default=0.0)
        if self.epsilon != largest:
            raise ValueError(f"epsilon = {self.epsilon} is not the largest over the clients, {largest}")
        if not ascending(tuple(point.round for point in self.curve)):
            raise ValueError("curve is not in the order of the rounds, each once")
        if self.curve and not math.isclose(self.curve[-1].max, self.epsilon, rel_tol=1e-9):
            raise ValueError(f"curve ends at {self.curve[-1].max}, not at epsilon = {self.epsilon}")

    def _check_charges(self) -> None:
        rounds: dict[int, set[int]] = defaultdict(set)
        steps: dict[int, int] = defaultdict(int)
        for event in self.events:
            rounds[event.client].add(event.round)
            steps[event.client] += event.steps
        numbers = {client.client for client in self.clients}
        if len(numbers) != len(self.clients):
            raise ValueError("clients names a client more than once")
        if steps.keys() - numbers:
            raise ValueError(f"events charges clients that clients lacks: {sorted(steps.keys() - numbers)}")
        for client in self.clients:
            if client.steps != steps[client.client]:
                raise ValueError(
                    f"client {client.client}: steps = {client.steps}, but its events are {steps[client.client]} steps"
                )
            if not ascending(client.rounds) or set(client.rounds) != rounds[client.client]:
                raise ValueError(f"client {client.client}: rounds are not those of its events, each once, in order")
