"""The part of the report that states the guarantee, what was done to keep it, and how it was accounted.

It answers what NIST SP 800-226 and the checklist of "How to DP-fy ML" (Ponomareva et al. 2023, section 5.3) ask of a
claim of differential privacy. An auditor can compose ``events`` again, client by client, and must arrive at the same
epsilons.
"""

import math
from collections import defaultdict
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from fedtrain.config.privacy import Mode
from fedtrain.privacy.mechanisms import private, protects
from fedtrain.privacy.spec import Neighbouring, Unit
from fedtrain.report.numbers import exact, upper
from fedtrain.report.parts import Count, NotNegative, Part, Positive, Round, Sha256, ascending

SamplingRate = Annotated[float, Field(gt=0, le=1)]


class Adversary(Part):
    """Someone who may want to learn about what is protected, and what stops them."""

    who: str = Field(description="who they are")
    sees: str = Field(description="what they see of the run")
    bounded: bool = Field(description="whether epsilon bounds what they can learn")
    by: str = Field(description="what bounds it, or why nothing does")


class AdaptiveClipping(Part):
    """A clip norm that follows a quantile of the norms (Andrew et al. 2021)."""

    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(description="fraction of the updates not to be clipped")
    learning_rate: Positive = Field(description="learning rate of the logarithm of the clip norm")
    count_noise: Positive = Field(
        description="standard deviation of the noise on the centred count of updates not clipped"
    )
    value_noise_multiplier: Positive = Field(
        description="noise multiplier left for the values, so that both releases together have noise_multiplier"
    )


class Correlation(Part):
    """Noise that is correlated over the rounds: the banded inverse square root (Kalinin et al. 2025)."""

    rounds: Round = Field(description="rounds of the run, over which it is correlated")
    separation: Round = Field(description="rounds from one participation of a client to its next, at least")
    bands: Round = Field(description="rounds whose draws the noise of one round is made of, at most")
    value_noise_multiplier: Positive = Field(
        description="standard deviation of the draws over clip_norm: noise_multiplier times what one client can move"
    )
    error: Positive = Field(
        description="root mean square, over the rounds, of the noise in the model, over that of independent noise at "
        "equal epsilon"
    )


class NoiseShares(Part):
    """How clients share the noise, and what their whole numbers are. Lengths are in steps of a grid."""

    members: Annotated[int, Field(ge=2)] = Field(description="clients in a cohort")
    threshold: Annotated[int, Field(ge=2)] = Field(description="clients without which no sum is unmasked")
    colluders: Count = Field(description="members of a cohort that may tell the server their shares, or add none")
    honest: Round = Field(description="shares that epsilon counts: threshold less colluders")
    bits: Round = Field(description="bits of a number that a client sends")
    steps: Round = Field(description="grid steps of clip_norm")
    limit: Round = Field(description="bound on a number before the noise")
    most: Round = Field(description="largest magnitude of a share; with limit it fits in the bits")
    values: Round = Field(description="most numbers in a vector")
    l2: Round = Field(description="bound on the L2 norm of what one unit changes, after rounding")
    l1: Round = Field(description="bound on the L1 norm of the same")
    share: Round = Field(description="variance of the noise of one share")
    variance: Round = Field(description="variance of the shares that epsilon counts, together")


class Mechanism(Part):
    """The mechanism, with every parameter that determines epsilon."""

    name: Literal["Poisson-sampled Gaussian", "Gaussian", "Poisson-sampled Skellam", "Skellam"] = Field(
        description="the kind of mechanism; Skellam: whole numbers, of which each client adds a share"
    )
    sampling_rate: SamplingRate = Field(description="probability with which a unit takes part in a step")
    noise_multiplier: Positive = Field(
        description="standard deviation of the noise over clip_norm; of shared noise, over the bound after rounding"
    )
    clip_norm: Positive = Field(
        description="bound on the L2 norm of what one unit adds to a step; the first one, if clipping is adaptive"
    )
    divisor: Positive = Field(description="public divisor of the noisy sum: expected units in a step")
    population: Positive = Field(description="public number of protected units; delta is below 1 / population")
    steps_per_round: Round = Field(description="noisy steps in a round")
    rounds: Round = Field(description="rounds that the noise was calibrated for, for each client")
    adaptive_clipping: AdaptiveClipping | None = Field(description="how clip_norm changes; null if it is fixed")
    correlation: Correlation | None = Field(
        None,
        description="how noise is correlated over the rounds; left out where it is drawn anew in each",
        exclude_if=lambda correlation: correlation is None,
    )
    shares: NoiseShares | None = Field(
        None,
        description="how clients share the noise; left out where they do not",
        exclude_if=lambda shares: shares is None,
    )
    plan_digest: Sha256 = Field(description="SHA-256 of the canonical JSON of plan; every ledger entry names it")
    plan: dict[str, JsonValue] = Field(description="the calibrated plan as data, as the clients received it")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        noise = "Gaussian" if self.shares is None else "Skellam"
        expected = noise if self.sampling_rate == 1 else f"Poisson-sampled {noise}"
        if self.name != expected:
            raise ValueError(
                f'name = "{self.name}" does not go with sampling_rate = {self.sampling_rate}, which is "{expected}"'
                + ("" if self.shares is None else " where the noise is shared")
            )
        return self


class Sampling(Part):
    """How the units of a step are chosen, and whether the accounting makes use of it."""

    scheme: Literal["Poisson, records", "Poisson, clients", "none"] = Field(
        description="each record, or each client, is drawn by itself with the same probability; or no draw is relied on"
    )
    rate: SamplingRate = Field(description="that probability; 1 if no draw is relied on")
    amplification: bool = Field(description="whether epsilon is smaller because the draw is secret")
    reason: str = Field(description="why amplification may be used, or why it is not")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scheme == "none" and (self.amplification or self.rate != 1):
            raise ValueError('scheme = "none" has rate 1 and no amplification')
        return self


class Accountant(Part):
    """One computation of the largest epsilon."""

    name: str = Field(description="the accountant")
    version: str = Field(description="version of the package that it comes from")
    role: Literal["claim", "second opinion", "ceiling"] = Field(
        description="claim: the epsilons of this report; second opinion: independent of it; ceiling: a looser bound"
    )
    epsilon: NotNegative = Field(description="its epsilon for the client that spent most")
    note: str | None = Field(description="why it is not the usual accountant for this role; null if it is")


class IntegerNoise(Part):
    """What one step is where noise is of whole numbers: Skellam noise on a vector."""

    variance: Round = Field(description="variance of the noise on each number")
    l2: Round = Field(description="bound on the L2 norm of what one unit changes")
    l1: Round = Field(description="bound on the L1 norm of the same")
    values: Round = Field(description="numbers in the vector, at most")


class PrivacyEvent(Part):
    """One charge to one client: so many steps of the mechanism.

    Every reservation of the client's ledger is one, whatever run made it, and every round that it was asked in and left
    unanswered. A round that was repeated has two events, and a client that was dropped keeps its event: what may have
    been sent counts.
    """

    client: Count = Field(description="the client")
    run: str = Field(description="the run, this one or an earlier one on the same records")
    round: Count = Field(description="the round; 0 is a charge for the whole run, made when the client joined")
    sampling_rate: SamplingRate = Field(description="sampling rate of these steps")
    noise_multiplier: Positive = Field(description="noise multiplier of these steps")
    steps: Round = Field(description="how many steps")
    skellam: IntegerNoise | None = Field(
        None,
        description="the noise, where it is of whole numbers; left out where it is Gaussian",
        exclude_if=lambda skellam: skellam is None,
    )


CURVE_CLIENTS = 40
"""With more clients than this the curve gives the largest and the median epsilon only."""

Delta = Annotated[float, Field(gt=0, lt=1)]
Noise = Literal["seeded", "secure"]

_ROUNDING = 1e-6  # two bounds of one composition on different grids

_UNSET_IN_NONE = (
    *("epsilon", "delta", "budget", "unit", "neighbouring", "adversaries", "trusted", "mechanism", "sampling"),
    *("accountants", "noise", "clients", "events", "curve"),
)
_SET_OTHERWISE = ("epsilon", "delta", "unit", "neighbouring", "mechanism", "sampling", "noise")


class ClientPrivacy(Part):
    """What one client has spent."""

    client: Count = Field(description="the client")
    epsilon: NotNegative = Field(description="epsilon of everything charged to its data set, in all runs")
    run_epsilon: NotNegative = Field(description="epsilon of what this run charged to it")
    budget: Positive | None = Field(description="epsilon that the client itself enforces; null if it is not known")
    rounds: tuple[Count, ...] = Field(description="the rounds of this run that were charged, each once, in order")
    steps: Count = Field(description="noisy steps that were charged, in all runs")
    dataset: str | None = Field(description="keyed digest of its data set; null if its ledger has no entry")
    entries: Count = Field(description="entries of its ledger, in all runs")
    unanswered: tuple[Count, ...] = Field(
        description="rounds that were charged without an entry: asked, and nothing signed says that it did not train"
    )


class PrivacyPoint(Part):
    """What the clients had spent after a round, all charges of other runs included from the start."""

    round: Count = Field(description="the round; 0 is before the first")
    max: NotNegative = Field(description="largest epsilon over the clients")
    median: NotNegative = Field(description="median epsilon over the clients, the higher one of two")
    clients: tuple[NotNegative, ...] = Field(
        description="epsilon of each client, in the order of privacy.clients; empty where there are more than 40"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.median > self.max:
            raise ValueError(f"round {self.round}: median = {self.median} is more than max = {self.max}")
        if self.clients and max(self.clients) != self.max:
            raise ValueError(f"round {self.round}: max = {self.max} is not the largest over the clients")
        return self


class Privacy(Part):
    """The privacy guarantee, all that is needed to check it, and what it does not cover."""

    mode: Mode = Field(
        description="what is protected. none: nothing; record: each record; client: each client with all its records"
    )
    epsilon: NotNegative | None = Field(description="largest epsilon over the clients; null in mode none")
    delta: Delta | None = Field(description="delta of every epsilon here; null in mode none")
    budget: Positive | None = Field(description="epsilon that this run may charge to a client; null if there is none")
    unit: Unit | None = Field(description="what is protected; null in mode none")
    neighbouring: Neighbouring | None = Field(description="which data sets are neighbours; null in mode none")
    adversaries: tuple[Adversary, ...] = Field(description="who is protected against whom")
    trusted: tuple[str, ...] = Field(description="whom the guarantee relies on, and for what")
    mechanism: Mechanism | None = Field(description="the mechanism; null in mode none")
    sampling: Sampling | None = Field(description="how the units of a step are chosen; null in mode none")
    accountants: tuple[Accountant, ...] = Field(description="what computed epsilon, each by its role")
    composition: str = Field(description="scope of epsilon: how steps, rounds, runs and clients are combined into one")
    noise: Noise | None = Field(
        description="seeded: repeatable, protects nobody; secure: cryptographic; null in mode none"
    )
    random_source: str = Field(description="where the noise and the draws came from, in words")
    tuning: str = Field(description="earlier runs on the same records, as the author of the run declares them")
    statement: str = Field(description="the guarantee in plain language")
    accesses_not_covered: tuple[str, ...] = Field(description="accesses to the data that epsilon does not account for")
    not_covered: tuple[str, ...] = Field(description="what else the guarantee does not cover, in plain language")
    clients: tuple[ClientPrivacy, ...] = Field(description="what each client has spent")
    events: tuple[PrivacyEvent, ...] = Field(description="every charge; the epsilons can be recomputed from them")
    curve: tuple[PrivacyPoint, ...] = Field(description="epsilon over the rounds; may be empty")

    @property
    def exceeded(self) -> tuple[str, ...]:
        """Say of each budget that is exceeded by how much."""
        found = []
        over = [client for client in self.clients if self.budget is not None and client.run_epsilon > self.budget]
        if over:
            most = upper(max(client.run_epsilon for client in over))
            names = ", ".join(str(client.client) for client in over[:8]) + (", ..." if over[8:] else "")
            found.append(f"this run charged epsilon {most}, more than {exact(self.budget or 0)}, to client {names}")
        found += [
            f"client {client.client} has spent {upper(client.epsilon)}, more than its own {exact(client.budget)}"
            for client in self.clients
            if client.budget is not None and client.epsilon > client.budget
        ]
        return tuple(found)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not private(self.mode):
            self._check_none()
        else:
            self._check_claim()
            self._check_sampling()
            self._check_curve()
            self._check_charges()
        return self

    def _check_none(self) -> None:
        for name in _UNSET_IN_NONE:
            if getattr(self, name) not in (None, ()):
                raise ValueError(f'{name} is set, but mode = "none" gives no guarantee that it could describe')

    def _check_claim(self) -> None:
        for name in _SET_OTHERWISE:
            if getattr(self, name) is None:
                raise ValueError(f'{", ".join(_SET_OTHERWISE)} are to be set in mode = "{self.mode}"')
        if not protects(self.mode, self.unit, self.neighbouring):
            raise ValueError(f'unit = "{self.unit}", "{self.neighbouring}", is not what mode = "{self.mode}" protects')
        largest = max((client.epsilon for client in self.clients), default=0.0)
        if self.epsilon != largest:
            raise ValueError(f"epsilon = {self.epsilon} is not the largest over the clients, {largest}")
        roles = [accountant.role for accountant in self.accountants]
        if len(set(roles)) != len(roles) or "claim" not in roles:
            raise ValueError('accountants are to have each role once, "claim" among them')
        for accountant in self.accountants:
            if accountant.role == "claim" and accountant.epsilon != self.epsilon:
                raise ValueError(f"the claim of {accountant.name} is {accountant.epsilon}, not epsilon {self.epsilon}")
        for client in self.clients:
            if client.run_epsilon > client.epsilon + _ROUNDING:
                raise ValueError(f"client {client.client}: run_epsilon is more than epsilon, which includes it")

    def _check_sampling(self) -> None:
        mechanism, sampling = self.mechanism, self.sampling
        assert mechanism is not None
        assert sampling is not None
        if sampling.rate != mechanism.sampling_rate:
            raise ValueError(f"sampling.rate = {sampling.rate}, mechanism.sampling_rate = {mechanism.sampling_rate}")
        if sampling.scheme not in {"none", f"Poisson, {self.unit}s"}:
            raise ValueError(
                f'sampling.scheme = "{sampling.scheme}" does not sample what mode = "{self.mode}" protects'
            )

    def _check_curve(self) -> None:
        if not ascending(tuple(point.round for point in self.curve)):
            raise ValueError("curve is not in the order of the rounds, each once")
        for point in self.curve:
            if point.clients and len(point.clients) != len(self.clients):
                raise ValueError(f"curve has {len(point.clients)} clients in round {point.round}, not those of clients")
        if self.curve and not math.isclose(self.curve[-1].max, self.epsilon or 0.0, rel_tol=1e-9):
            raise ValueError(f"curve ends at {self.curve[-1].max}, not at epsilon = {self.epsilon}")

    def _check_charges(self) -> None:
        steps: dict[int, int] = defaultdict(int)
        for event in self.events:
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
            if not ascending(client.rounds) or not set(client.unanswered) <= set(client.rounds):
                raise ValueError(
                    f"client {client.client}: rounds are not in order, each once, those of unanswered among them"
                )
