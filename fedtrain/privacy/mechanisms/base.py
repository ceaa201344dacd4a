"""What a mechanism is: one object for each way to be private, which everything else asks.

A mechanism says which guarantee is asked for (``spec``), what that spends (``event``), what a client does with what it
trains (``contribute``), what the server does with what it gets (``release``), what else has to hold (``requires``), and
all of this in words. It works on named arrays and on a trainer that is handed to it, so that it knows nothing of
messages, models or files. Nothing here imports torch: an audit reads mechanisms without it.

How to add one: docs/how-to/add-a-mechanism.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Experiment, Privacy
from fedtrain.config.privacy import Trust
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.correlation import Correlation
from fedtrain.privacy.events import KIND, Event
from fedtrain.privacy.plan import PrivacyPlan, calibrate
from fedtrain.privacy.shares import NoiseShares
from fedtrain.privacy.spec import AdaptiveClipping, Neighbouring, PrivacySpec, Unit

if TYPE_CHECKING:
    from fedtrain.privacy.client_level import Contribution, Release
    from fedtrain.privacy.noise import RandomSource

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by name, in the order of the model."""


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What else has to hold for the claim of a mechanism to be true.

    Attributes:
        hidden_cohorts: nobody may learn who takes part in which round. A client reserves the whole run when it joins,
            since an entry for each round would tell.
        per_record_gradients: the model has a gradient of its own for each record.
        no_batch_statistics: the model keeps no statistics of the records beside its parameters.
        only_sums: nobody may learn what a single client sends. A simulation may do without masks; its report says so.
    """

    hidden_cohorts: bool = False
    per_record_gradients: bool = False
    no_batch_statistics: bool = False
    only_sums: bool = False


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What held of the transport of a run, as its texts need it.

    Attributes:
        sealed: in every round that was asked, models and updates were encrypted end to end.
        summed: in some round, the server got the sum of the updates alone, and could not clip them.
        only_sums: in every round that was asked, it did.
    """

    sealed: bool
    summed: bool
    only_sums: bool


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """Someone who may want to learn about what is protected.

    Attributes:
        who: who they are.
        sees: what they see of the run.
        bounded: whether epsilon bounds what they can learn, if nobody can predict the noise.
        by: what bounds it, or why nothing does.
    """

    who: str
    sees: str
    bounded: bool
    by: str


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the units of a step are chosen, and why epsilon may make use of it, or may not."""

    scheme: Literal["Poisson, records", "Poisson, clients", "none"]
    rate: float
    amplification: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a client sends of a round.

    Attributes:
        arrays: the trained arrays, by name, in the shapes and dtypes that were received; where clients share the noise,
            whole numbers in their place, int32 of the same shapes.
        within: whether the update was within the clipping norm before it was clipped; ``None`` if it is not sent.
    """

    arrays: dict[str, NDArray[Any]]
    within: bool | None = None


class Training(Protocol):
    """The training of one round at one client: it holds the model, the records and the settings.

    The first two methods return the trained arrays by name, of the names, shapes and dtypes that were received.
    """

    def plainly(self) -> Arrays:
        """Train without privacy."""

    def by_record(self, plan: PrivacyPlan, source: "RandomSource") -> Arrays:
        """Train by steps of the plan's Poisson-sampled Gaussian on the records, with noise from the source."""

    def gradient_sum(self, plan: PrivacyPlan, source: "RandomSource", *, clip_norm: float) -> Arrays:
        """Return the sum of the gradients of a batch of records, each clipped, in float64 and without noise.

        Each record enters the batch on its own, with the sampling rate of the plan. The batch is drawn from the source.
        """


class Mechanism(ABC):
    """A way to be private.

    Attributes:
        kind: its name in the registry.
        mode: the ``privacy.mode`` that it belongs to, in experiments, records, reports and site files.
        trust: who adds the noise, as ``privacy.trust`` and site files have it.
        unit: what is protected; ``None`` if nothing is.
        neighbouring: what two data sets differ in that are not to be told apart; ``None`` likewise.
        plan_kind: the kind of its plans. With unit and neighbouring it tells the mechanism of a plan: clients sign the
            digest of the plan, so that nobody can say later that they did something else.
        requires: what else has to hold.
        clips_updates: whether each client's whole update is brought down to the clipping norm, and it says whether
            that was needed.
        counts_clients: whether the population in the spec is the clients, so that delta rests on their number.
        correlates: whether the noise of a round is made of draws of earlier rounds too, so that plans say how.
        shares_noise: whether each client adds a share of the noise, to whole numbers whose sum alone means anything.
    """

    kind: ClassVar[str]
    mode: ClassVar[str]
    trust: ClassVar[Trust] = "local"
    unit: ClassVar[Unit | None] = None
    neighbouring: ClassVar[Neighbouring | None] = None
    plan_kind: ClassVar[str] = KIND
    requires: ClassVar[Requirements] = Requirements()
    clips_updates: ClassVar[bool] = False
    counts_clients: ClassVar[bool] = False
    correlates: ClassVar[bool] = False
    shares_noise: ClassVar[bool] = False

    @abstractmethod
    def chosen(self, privacy: Privacy) -> bool:
        """Say whether an experiment asks for this mechanism."""

    @property
    def private(self) -> bool:
        """Whether anything is guaranteed."""
        return self.unit is not None

    @property
    def reserves_run(self) -> bool:
        """Whether a client reserves the whole run at once, and not each round."""
        return self.requires.hidden_cohorts

    @property
    def adds_noise(self) -> bool:
        """Whether the server adds the noise, to the sum of what clients send."""
        return False

    def spec(self, experiment: Experiment) -> PrivacySpec:
        """Return the guarantee of an experiment, in public constants only.

        Raises:
            PrivacySpecError: nothing is guaranteed.
        """
        raise PrivacySpecError("an experiment without privacy guarantees nothing")

    def spec_with(
        self,
        experiment: Experiment,
        *,
        sampling_rate: float,
        divisor: int,
        population: float,
        rounds: int,
        steps_per_round: int = 1,
        adaptive: AdaptiveClipping | None = None,
        correlation: Correlation | None = None,
        shares: NoiseShares | None = None,
    ) -> PrivacySpec:
        """Return a spec to the budget and with the clipping norm of an experiment; the rest is for a mechanism to say.

        Raises:
            PrivacySpecError: nothing is guaranteed.
        """
        if self.unit is None or self.neighbouring is None:
            raise PrivacySpecError(f"{self.kind} protects nothing")
        privacy = experiment.privacy
        return PrivacySpec(
            unit=self.unit,
            neighbouring=self.neighbouring,
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            clip_norm=privacy.clip_norm,
            sampling_rate=sampling_rate,
            divisor=divisor,
            population=population,
            steps_per_round=steps_per_round,
            rounds=rounds,
            adaptive=adaptive,
            correlation=correlation,
            shares=shares,
        )

    def plan(self, experiment: Experiment, *, noise_multiplier: float | None = None) -> PrivacyPlan:
        """Return the plan of an experiment.

        Args:
            experiment: the experiment.
            noise_multiplier: noise to use instead of that of the experiment, or of the least that keeps the guarantee.

        Raises:
            PrivacySpecError: nothing is guaranteed, or the noise does not keep it.
        """
        noise = experiment.privacy.noise_multiplier if noise_multiplier is None else noise_multiplier
        return calibrate(self.spec(experiment), noise_multiplier=noise, kind=self.plan_kind)

    def event(self, plan: PrivacyPlan, rounds: int) -> Event:
        """Return what taking part in so many rounds does to the privacy of a client."""
        return plan.event(plan.spec.steps_per_round * rounds)

    def reservation(self, plan: PrivacyPlan) -> Event:
        """Return what a client reserves at once: a round, or the whole run."""
        return self.event(plan, plan.spec.rounds if self.reserves_run else 1)

    def contribute(
        self, plan: PrivacyPlan, training: Training, received: Arrays, *, clip_norm: float, source: "RandomSource"
    ) -> Sent:
        """Train at a client, and return what it may send. This is the client's side of the mechanism.

        Args:
            plan: the plan.
            training: the client's training.
            received: the arrays that are trained, as they were received.
            clip_norm: the clipping norm of the round.
            source: where the client's noise and draws come from.

        Raises:
            PrivacySpecError: nothing is guaranteed.
        """
        raise PrivacySpecError(f"{self.kind} has no private training")

    def noise(self, plan: PrivacyPlan, draws: Callable[[int], "RandomSource"]) -> Callable[[int], "RandomSource"]:
        """Return where the noise of each round of a run comes from, at the server, given independent draws for each.

        Args:
            plan: the plan.
            draws: returns the source of a round's draws, by its number from 1; a seeded one repeats.
        """
        return draws

    def release(
        self,
        plan: PrivacyPlan,
        *,
        clip_norm: float,
        shapes: Mapping[str, tuple[int, ...]],
        contributions: Iterable["Contribution"],
        source: "RandomSource",
    ) -> "Release":
        """Return the noisy mean of what clients sent. This is the server's side of a mechanism that ``adds_noise``.

        Raises:
            PrivacySpecError: the mechanism adds no noise at the server.
        """
        raise PrivacySpecError(f"the server adds no noise in {self.kind}")

    def release_sum(
        self,
        plan: PrivacyPlan,
        *,
        clip_norm: float,
        total: Mapping[str, NDArray[np.float64]],
        count: float,
        source: "RandomSource",
        modulus: float,
        count_modulus: float,
        largest_count: float,
    ) -> "Release":
        """Do the same where the server has the sum alone.

        Raises:
            PrivacySpecError: the mechanism adds no noise at the server.
        """
        raise PrivacySpecError(f"the server adds no noise in {self.kind}")

    def deviation(self, plan: PrivacyPlan, clients: int) -> float:
        """Return the standard deviation of what is drawn for each value of the mean of a step, in clipping norms.

        Args:
            plan: the plan.
            clients: of a cohort, over which the mean is.
        """
        return plan.value_noise_multiplier / plan.spec.divisor

    def largest(self, plan: PrivacyPlan) -> int:
        """Return the largest magnitude of a whole number that a client sends, where clients share the noise; else 0."""
        return 0

    def change(
        self, plan: PrivacyPlan, *, total: Arrays, clients: int, learning_rate: float
    ) -> dict[str, NDArray[np.float64]]:
        """Return how a sum of what clients sent changes the model, where they share the noise.

        Args:
            plan: the plan.
            total: the sum of their whole numbers, by name.
            clients: how many are in the sum, which everyone knows.
            learning_rate: that of the round.

        Raises:
            PrivacySpecError: clients do not share the noise.
        """
        raise PrivacySpecError(f"clients do not share the noise in {self.kind}")

    # In words. All of it follows from the plan and the transport, so that an audit can compare it.

    @abstractmethod
    def adversaries(self, plan: PrivacyPlan, seen: Seen) -> tuple[Adversary, ...]:
        """Return who is bounded by what, if nobody can predict the noise."""

    @abstractmethod
    def trusted(self, plan: PrivacyPlan, seen: Seen) -> tuple[str, ...]:
        """Return whom the guarantee relies on, and for what."""

    @abstractmethod
    def sampling(self, plan: PrivacyPlan) -> Sampling:
        """Return how units are chosen, and whether epsilon makes use of it."""

    @abstractmethod
    def statement(self, odds: str, seen: Seen) -> str:
        """Return the guarantee in plain language, with the odds that are given in words."""

    @abstractmethod
    def accesses(self) -> tuple[str, ...]:
        """Return which accesses to the data epsilon does not pay for, with noise that nobody can predict."""

    def gaps(self, seen: Seen) -> tuple[str, ...]:
        """Return what epsilon does not cover beyond what it never covers."""
        return ()

    @abstractmethod
    def onlooker(self) -> tuple[str, str]:
        """Return who can hardly tell what, as two parts of a sentence."""

    @abstractmethod
    def unproven(self, seen: Seen) -> str:
        """Return what nobody can prove of secure noise."""

    @property
    def protects(self) -> str:
        """For whom the budget holds, in a few words."""
        return "for each client"
