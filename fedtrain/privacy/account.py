"""One account for each client, over all rounds: what was charged, and what may still be."""

from dataclasses import dataclass, replace

from fedtrain.errors import BudgetError
from fedtrain.privacy.accounting import epsilon_of
from fedtrain.privacy.events import SampledGaussian
from fedtrain.privacy.plan import PrivacySpec


@dataclass(frozen=True, kw_only=True)
class Charge:
    """A round that was charged.

    Attributes:
        run: digest of the run's configuration, seed included.
        round_number: the round, from 1.
        model: digest of the model that the client received.
        event: what the round does to the privacy of the client's records.
    """

    run: str
    round_number: int
    model: str
    event: SampledGaussian


@dataclass(frozen=True, kw_only=True)
class Account:
    """The charges of one client, oldest first."""

    charges: tuple[Charge, ...] = ()

    def spent(self, delta: float) -> float:
        """Return an upper bound on the epsilon that all charges together spend at ``delta``."""
        return epsilon_of((charge.event for charge in self.charges), delta)

    def reserve(self, charge: Charge, spec: PrivacySpec) -> "Account":
        """Return the account with the charge added, to be stored before a record is touched.

        A charge that is there already is not added again: in a simulation the same run, round and model give the same
        seed, so the very same update is released a second time, which tells nobody anything new.

        Raises:
            BudgetError: with the charge, the account would spend more than the spec's epsilon at its delta.
        """
        if charge in self.charges:
            return self
        account = replace(self, charges=(*self.charges, charge))
        if self._within_plan(charge, spec):
            return account
        if (epsilon := account.spent(spec.delta)) > spec.epsilon:
            raise BudgetError(
                f"round {charge.round_number} would bring epsilon from {self.spent(spec.delta):.4g} to {epsilon:.4g}, "
                f"beyond the budget of {spec.epsilon:g} at delta {spec.delta:g}; nothing was trained"
            )
        return account

    def _within_plan(self, charge: Charge, spec: PrivacySpec) -> bool:
        # Epsilon grows with the steps, and the plan's whole was checked when it was made: no need to compose again.
        same = all(
            (earlier.event.sampling_rate, earlier.event.noise_multiplier)
            == (charge.event.sampling_rate, charge.event.noise_multiplier)
            for earlier in self.charges
        )
        steps = charge.event.steps + sum(earlier.event.steps for earlier in self.charges)
        return same and steps <= spec.steps
