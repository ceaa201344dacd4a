"""What an experiment would guarantee, the noise that it takes, and what it spends, before anyone trains."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, exp, sqrt
from typing import Any

from fedtrain.config import Experiment
from fedtrain.config.strategies import check_strategy
from fedtrain.errors import PrivacySpecError, UsageError
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.accounting import COARSE, FINE, Bound, claim, epsilon_of, second_opinion
from fedtrain.privacy.correlation import Correlation, mean_error
from fedtrain.privacy.mechanisms import mechanism_of, mechanism_of_plan
from fedtrain.report import trusts
from fedtrain.report.numbers import count, exact, upper
from fedtrain.report.trusts import TrustedNoise

_BAR = 40  # letters
_ROWS = 10  # numbers of rounds up to all rounds
_PLAIN_EPSILON = 20  # beyond it the factor e^epsilon means nothing to a reader

_NOISE_FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)
_RATE_FACTORS = (0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """What so many rounds spend with such noise and sampling rate, at the delta of the plan."""

    rounds: int
    noise_multiplier: float
    sampling_rate: float
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """A privacy plan with what it costs and what it buys. As text, it is what ``fedtrain privacy plan`` prints.

    Attributes:
        plan: the plan: the guarantee, and the noise that keeps it.
        accountants: bounds on the epsilon of all rounds: the claim, then the second opinion.
        rounds: what so many rounds spend, up to all rounds, and of twice all.
        alternatives: what all rounds would spend with other noise and sampling rates, the steps being the same.
        trusts: where clients share the noise, what the same guarantee takes by who adds it; else nothing.
    """

    plan: PrivacyPlan
    accountants: tuple[Bound, ...]
    rounds: tuple[Projection, ...]
    alternatives: tuple[Projection, ...]
    trusts: tuple[TrustedNoise, ...] = ()

    @property
    def epsilon(self) -> float:
        """What all rounds spend, by the accountant of the claim."""
        return self.accountants[0].epsilon

    @property
    def delta(self) -> float:
        """The delta of every epsilon here."""
        return self.plan.spec.delta

    @property
    def budget(self) -> float:
        """The epsilon that is guaranteed."""
        return self.plan.spec.epsilon

    @property
    def noise_multiplier(self) -> float:
        """The deviation of the noise over the clipping norm."""
        return self.plan.noise_multiplier

    def __str__(self) -> str:
        """Say it in words, with a picture of epsilon over the rounds and a table of alternatives."""
        return "\n".join(_text(self))

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "plan": self.plan.as_data(),
            "digest": self.plan.digest,
            "noise_multiplier": self.noise_multiplier,
            "value_noise_multiplier": self.plan.value_noise_multiplier,
            **_correlation_data(self.plan),
            **trusts.as_data(self.trusts),
            "epsilon": self.epsilon,
            "delta": self.delta,
            "budget": self.budget,
            "accountants": [asdict(bound) for bound in self.accountants],
            "rounds": [{"rounds": point.rounds, "epsilon": point.epsilon} for point in self.rounds],
            "alternatives": [asdict(point) for point in self.alternatives],
        }


def _correlation_data(plan: PrivacyPlan) -> dict[str, Any]:
    """Return how noise is correlated, and what that does to the model; nothing where it is drawn anew in each round."""
    correlation = plan.spec.correlation
    if correlation is None:
        return {}
    return {"correlation": {**asdict(correlation), "error": mean_error(correlation, plan.spec.rounds)}}


def summarize_plan(experiment: Experiment) -> PlanSummary:
    """Return the privacy plan of an experiment, with what it costs and buys. Its data need not be here.

    Raises:
        UsageError: the experiment guarantees nothing.
        PrivacySpecError: its parameters cannot give the guarantee.
        ConfigError: its cohorts are too small for its strategy, so that no run would begin.
    """
    check_strategy(experiment)
    mechanism = mechanism_of(experiment)
    if not mechanism.private:
        raise UsageError(
            'privacy.mode = "none" guarantees nothing, so there is nothing to plan; set it to "record" or "client"'
        )
    made = mechanism.plan(experiment)
    event, delta = mechanism.event(made, made.spec.rounds), made.spec.delta
    bound = claim([event], delta)
    return PlanSummary(
        plan=made,
        accountants=(bound, second_opinion([event], delta)),
        trusts=trusts.compare(made, bound),
        rounds=_over_rounds(made, _rounds(made.spec.rounds)),
        alternatives=_alternatives(made),
    )


def _rounds(total: int) -> list[int]:
    """Return numbers of rounds up to all, evenly spaced, and twice all."""
    return [*sorted({ceil(total * part / _ROWS) for part in range(1, _ROWS + 1)}), 2 * total]


def _text(summary: PlanSummary) -> list[str]:
    made, bounds, rounds, others = summary.plan, summary.accountants, summary.rounds, summary.alternatives
    spec = made.spec
    steps = "step" if spec.steps_per_round == 1 else "steps"
    return [
        *_promise(made, bounds[0].epsilon),
        "",
        *_noise(made),
        *(trusts.lines(made, summary.trusts) if summary.trusts else ()),
        f"Sampling rate {exact(spec.sampling_rate)}; {spec.rounds} rounds of {spec.steps_per_round} {steps} at most.",
        "",
        *[_bound(*named) for named in zip(("Claim", "Second opinion"), bounds, strict=True)],
        "",
        f"Epsilon over the rounds that a client trains in; the budget of {exact(spec.epsilon)} is at the line:",
        "",
        *_bars(rounds, spec.epsilon),
        "",
        "Epsilon of all rounds with other noise (down) and sampling rates (across), the steps being the same:",
        "",
        *_table(others, made),
    ]


def _promise(made: PrivacyPlan, epsilon: float) -> list[str]:
    who, what = mechanism_of_plan(made).onlooker()
    if epsilon <= _PLAIN_EPSILON:
        factor = f"a factor of exp({upper(epsilon)}) = {upper(exp(epsilon))}"
    else:
        factor = f"a factor of exp({upper(epsilon)}), which protects nobody in practice"
    return [
        who,
        f"can hardly tell whether {what}:",
        "anything that they could observe is as likely either way, but for at most",
        f"{factor}, and an additional probability of {exact(made.spec.delta)}.",
        'The noise must be one that nobody can predict (privacy.noise = "secure").',
    ]


def _noise(made: PrivacyPlan) -> list[str]:
    spec, values = made.spec, made.round_noise_multiplier
    lines = [f"Noise multiplier {exact(made.noise_multiplier)}."]
    if spec.adaptive is not None:
        lines.append(
            f"The count of adaptive clipping, with noise of deviation {exact(spec.adaptive.count_noise)}, takes a part "
            f"of it, so that the sum has {values:.4g}."
        )
    if spec.correlation is not None:
        lines.append(_correlation(made, spec.correlation))
    if spec.shares is not None:
        return lines
    lines.append(
        f"The sum of contributions, each of norm at most {exact(spec.clip_norm)}, has noise of deviation "
        f"{values * spec.clip_norm:.4g} and is divided by {spec.divisor}."
    )
    outweighed = ceil((spec.divisor / values) ** 2)
    lines.append(
        f"In one step the noise is longer than the longest mean of contributions for a model of {count(outweighed)} "
        "parameters or more."
    )
    return lines


def _correlation(made: PrivacyPlan, correlation: Correlation) -> str:
    spec, single = made.spec, made.noise_multiplier / sqrt(made.spec.rounds)
    return (
        f"Of {count(correlation.rounds)} rounds a client takes part in {count(spec.rounds)} at most, in none of the "
        f"{count(correlation.separation - 1)} after each:\n"
        f"all of them are one Gaussian mechanism of noise multiplier {single:.4g}, charged in equal shares.\n"
        f"Each round takes a part of the noise of the {count(correlation.bands - 1)} before back. Over the rounds, the "
        "noise in the model is\n"
        f"{mean_error(correlation, spec.rounds):.3f} of independent noise at the same epsilon (root mean square)."
    )


def _bound(role: str, bound: Bound) -> str:
    note = f" ({bound.note})" if bound.note else ""
    return f"{role}: all rounds spend epsilon {upper(bound.epsilon)}, by {bound.accountant} {bound.version}{note}."


def _bars(rounds: Sequence[Projection], budget: float) -> list[str]:
    largest = max(budget, *(point.epsilon for point in rounds))
    line = round(_BAR * (budget / largest))
    rows = []
    for point in rounds:
        length = ceil(_BAR * (point.epsilon / largest))
        letters = ["#" if index < length else " " for index in range(_BAR + 1)]
        letters[line] = "|"
        beyond = "  beyond the budget" if point.epsilon > budget else ""
        rows.append(f"{point.rounds:>8} {upper(point.epsilon):>9}  {''.join(letters).rstrip()}{beyond}")
    return [f"{'rounds':>8} {'epsilon':>9}", *rows]


def _table(others: Sequence[Projection], made: PrivacyPlan) -> list[str]:
    rates = sorted({point.sampling_rate for point in others})
    noises = sorted({point.noise_multiplier for point in others})
    cells = {(point.noise_multiplier, point.sampling_rate): point.epsilon for point in others}
    chosen = (made.noise_multiplier, made.spec.sampling_rate)
    rows = [f"{'noise':>12} " + "".join(f"{'rate ' + format(rate, '.4g'):>15} " for rate in rates).rstrip()]
    for noise in noises:
        marks = [" *"[(noise, rate) == chosen] for rate in rates]
        found = [upper(cells[noise, rate]) if (noise, rate) in cells else "no bound" for rate in rates]
        values = [f"{value:>15}{mark}" for value, mark in zip(found, marks, strict=True)]
        rows.append(f"{noise:>12.4g} " + "".join(values).rstrip())
    return [*rows, "", "* the plan"]


def _over_rounds(plan: PrivacyPlan, rounds: Iterable[int]) -> tuple[Projection, ...]:
    """Return what the plan has spent after each number of rounds, where anything bounds it."""
    return tuple(filter(None, (_projection(plan, number, FINE) for number in rounds)))


def _alternatives(plan: PrivacyPlan) -> tuple[Projection, ...]:
    """Return what all rounds of the plan would spend with other noise and rates, the steps being the same.

    A plan that counts on no sampling has no other rates. Shared noise is left out that does not fit in its bits, or is
    so little that nothing bounds epsilon. The grid is the coarse one, except for the plan itself.
    """
    spec = plan.spec
    rates = {1.0} if spec.sampling_rate == 1 else {min(spec.sampling_rate * factor, 1.0) for factor in _RATE_FACTORS}
    others = (
        replace(plan, spec=replace(spec, sampling_rate=rate), noise_multiplier=plan.noise_multiplier * factor)
        for rate in sorted(rates)
        for factor in _NOISE_FACTORS
    )
    found = (_projection(other, spec.rounds, FINE if other == plan else COARSE) for other in others)
    return tuple(filter(None, found))


def _projection(plan: PrivacyPlan, rounds: int, discretization: float) -> Projection | None:
    spec = plan.spec
    try:
        event = mechanism_of_plan(plan).event(plan, rounds)
        epsilon = epsilon_of([event], spec.delta, discretization=discretization)
    except PrivacySpecError:
        return None
    return Projection(
        rounds=rounds, noise_multiplier=plan.noise_multiplier, sampling_rate=spec.sampling_rate, epsilon=epsilon
    )
