"""Plain training: nothing is guaranteed."""

from fedtrain.config import Privacy
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.mechanisms.base import Adversary, Mechanism, Sampling, Seen
from fedtrain.privacy.plan import PrivacyPlan


class Plain(Mechanism):
    """Training without privacy. Clients send what they trained, with their numbers of records and their losses."""

    kind = "none"
    mode = "none"

    def chosen(self, privacy: Privacy) -> bool:
        """Say whether an experiment asks for no privacy."""
        return privacy.mode == self.mode

    def adversaries(self, plan: PrivacyPlan, seen: Seen) -> tuple[Adversary, ...]:
        """Return nobody: no one is bounded."""
        return ()

    def trusted(self, plan: PrivacyPlan, seen: Seen) -> tuple[str, ...]:
        """Return nobody: there is no guarantee that could rely on anyone."""
        return ()

    def sampling(self, plan: PrivacyPlan) -> Sampling:
        """Refuse.

        Raises:
            PrivacySpecError: there are no noisy steps to draw units for.
        """
        raise PrivacySpecError("without privacy there are no steps that units are drawn for")

    def statement(self, odds: str, seen: Seen) -> str:
        """Say that nothing is guaranteed."""
        return "This run gives no privacy guarantee. Its models may reveal the records that they were trained on."

    def accesses(self) -> tuple[str, ...]:
        """Say that nothing is paid for."""
        return ("Everything.",)

    def gaps(self, seen: Seen) -> tuple[str, ...]:
        """Say that nothing is covered."""
        return ("Everything.",)

    def onlooker(self) -> tuple[str, str]:
        """Refuse.

        Raises:
            PrivacySpecError: nobody is kept from telling anything.
        """
        raise PrivacySpecError("without privacy nobody is kept from telling anything")

    def unproven(self, seen: Seen) -> str:
        """Say that there is no noise."""
        return "there is no noise"
