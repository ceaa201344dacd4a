"""Client privacy with noise that is correlated over the rounds, for cohorts that are known.

Where nobody can be trusted to keep cohorts secret, the draw of clients wins nothing, and each participation counts in
full. What can be won instead is noise that later rounds take back: `fedtrain.privacy.correlation` has the matrix, its
sensitivity and the proof. It needs participations of one client that are far apart. The server draws clients that did
not take part in the last rounds, and each client's own program refuses a round that comes too soon, by its ledger.

The whole run is one Gaussian mechanism. A client is charged for it in equal shares, one for each round that it takes
part in, so that ledgers, refusals and audits are those of independent noise. A client that takes part less often than
it may is charged less, and never less than what happened. With seeded noise a round that is asked again is the very
same release; with secure noise it would be another one, and clients refuse it.

The draws of earlier rounds are as secret as the noise itself. With secure noise they are in the memory of the server's
process, and nowhere else: a run that ended cannot be resumed.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fedtrain.config import Experiment, Privacy
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.correlation import Correlation
from fedtrain.privacy.mechanisms import words
from fedtrain.privacy.mechanisms.base import Sampling, Seen
from fedtrain.privacy.mechanisms.client import ClientCapped
from fedtrain.privacy.plan import PrivacyPlan
from fedtrain.privacy.spec import PrivacySpec

if TYPE_CHECKING:
    from fedtrain.privacy.noise import RandomSource


class ClientBanded(ClientCapped):
    """Known cohorts, participations of a client far apart, and noise by the banded inverse square root."""

    kind = "client, correlated noise"
    plan_kind = "banded-gaussian"
    correlates = True

    def chosen(self, privacy: Privacy) -> bool:
        """Say whether an experiment asks for correlated noise."""
        return privacy.mode == self.mode and privacy.cohorts == "capped" and privacy.mechanism == "banded"

    def spec(self, experiment: Experiment) -> PrivacySpec:
        """Return the guarantee of an experiment.

        Raises:
            PrivacySpecError: there are too few clients or rounds for the separation; the arithmetic is shown.
        """
        federation, correlation = experiment.federation, _correlation(experiment)
        needed = correlation.separation * federation.cohort
        if needed > federation.clients:
            raise PrivacySpecError(
                f"privacy.separation = {correlation.separation} rounds of federation.cohort = {federation.cohort} need "
                f"{needed} different clients, and federation.clients = {federation.clients}; set privacy.separation to "
                f"{federation.clients // federation.cohort} or less, or lower federation.cohort"
            )
        return self.spec_with(
            experiment,
            sampling_rate=1.0,
            divisor=federation.cohort,
            population=float(federation.clients),
            rounds=min(words.participations(experiment), correlation.most_participations),
            correlation=correlation,
        )

    def noise(self, plan: PrivacyPlan, draws: Callable[[int], "RandomSource"]) -> Callable[[int], "RandomSource"]:
        """Return sources that add to each round's draws those of the rounds before, by the plan's bands."""
        from fedtrain.privacy.correlated_noise import CorrelatedNoise  # noqa: PLC0415 - an audit needs no torch

        return CorrelatedNoise(_of(plan).bands, draws)

    def trusted(self, plan: PrivacyPlan, seen: Seen) -> tuple[str, ...]:
        """Return whom the guarantee relies on, and for what."""
        apart = (
            f"The server and each client's own program, to let no client take part twice within "
            f"{_of(plan).separation} rounds: the record and the ledgers in this report show it."
        )
        return (*super().trusted(plan, seen), apart)

    def sampling(self, plan: PrivacyPlan) -> Sampling:
        """Return that no draw is relied on."""
        return Sampling(
            scheme="none",
            rate=1.0,
            amplification=False,
            reason="Cohorts are known, so every participation counts in full, up to the cap; those of one client are "
            f"{_of(plan).separation} rounds apart or more, which the noise relies on.",
        )


def _correlation(experiment: Experiment) -> Correlation:
    separation = experiment.privacy.separation
    assert separation is not None  # an experiment that chooses this mechanism has one
    return Correlation.of(rounds=experiment.federation.rounds, separation=separation)


def _of(plan: PrivacyPlan) -> Correlation:
    correlation = plan.spec.correlation
    if correlation is None:
        raise PrivacySpecError(f"a plan of kind {plan.kind!r} says how its noise is correlated, and this one does not")
    return correlation
