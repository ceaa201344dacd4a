"""Client privacy: each client's whole update is clipped, and the server adds noise to the sum.

The mechanism of DP-FedAvg (McMahan et al. 2018). There are two ways to draw cohorts. Poisson cohorts are kept secret,
and each client counts as sampled: two federations are neighbours if one has one client more. Capped cohorts are known,
nothing is won by the draw, and each participation counts in full: two federations are neighbours if the contribution of
one client is zero in one of them. Either way epsilon bounds everyone who sees the models, and the server is trusted.

With secure aggregation the server cannot clip a second time. Each client's own program then has to. The guarantee of a
client that does holds whatever the others send: it is about the difference that its own contribution makes to the sum,
which clipping bounds, and all that the others send may be taken as given. Rounding is part of the contribution: the
client clips to the clipping norm less the largest error of rounding, so that the sensitivity is the clipping norm of
the plan. A client that sends numbers beyond the range can make the sum wrap around. The server reduces the sum once
more with the noise in it (`fedtrain.privacy.client_level.release_sum`), so that the result is a function of the noisy
sum.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Experiment, Privacy
from fedtrain.privacy.clipping import clip_change
from fedtrain.privacy.mechanisms import words
from fedtrain.privacy.mechanisms.base import Adversary, Arrays, Mechanism, Requirements, Sampling, Seen, Sent, Training
from fedtrain.privacy.plan import PrivacyPlan
from fedtrain.privacy.spec import AdaptiveClipping, PrivacySpec

if TYPE_CHECKING:
    from fedtrain.privacy.client_level import Contribution, Release
    from fedtrain.privacy.noise import RandomSource

# Andrew et al. 2021 take a twentieth of the expected cohort: enough for a useful count, and nearly free.
_COUNT_NOISE = 1 / 20


class ClientCentral(Mechanism):
    """What both ways to draw cohorts have in common."""

    mode = "client"
    trust = "central"
    unit = "client"
    clips_updates = True
    counts_clients = True

    @property
    def adds_noise(self) -> bool:
        """Whether the server adds the noise: it does."""
        return True

    @abstractmethod
    def _rate(self, experiment: Experiment) -> float:
        """Return the sampling rate that is counted on."""

    @abstractmethod
    def _rounds(self, experiment: Experiment) -> int:
        """Return the rounds that one client takes part in at most."""

    def spec(self, experiment: Experiment) -> PrivacySpec:
        """Return the guarantee of an experiment."""
        privacy, federation = experiment.privacy, experiment.federation
        adaptive = AdaptiveClipping(
            quantile=privacy.clipping_quantile,
            learning_rate=privacy.clipping_rate,
            count_noise=privacy.clipping_noise or federation.cohort * _COUNT_NOISE,
        )
        return self.spec_with(
            experiment,
            sampling_rate=self._rate(experiment),
            divisor=federation.cohort,
            population=float(federation.clients),
            rounds=self._rounds(experiment),
            adaptive=adaptive if privacy.adaptive_clipping else None,
        )

    def contribute(
        self,
        plan: PrivacyPlan,
        training: Training,
        received: Arrays,
        *,
        clip_norm: float,
        source: "RandomSource",
    ) -> Sent:
        """Train plainly, and clip the whole change.

        A fixed norm is the plan's, whatever the round says. An adaptive one follows the server, who is trusted with it.
        """
        norm = plan.spec.clip_norm if plan.spec.adaptive is None else clip_norm
        arrays, within = clip_change(received, training.plainly(), norm)
        return Sent(arrays=arrays, within=within)

    def release(
        self,
        plan: PrivacyPlan,
        *,
        clip_norm: float,
        shapes: Mapping[str, tuple[int, ...]],
        contributions: Iterable["Contribution"],
        source: "RandomSource",
    ) -> "Release":
        """Clip again, sum, add noise, and divide by the public divisor: `fedtrain.privacy.client_level.release`."""
        from fedtrain.privacy.client_level import release  # noqa: PLC0415 - an audit needs no torch

        return release(plan, clip_norm=clip_norm, shapes=shapes, contributions=contributions, source=source)

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
        """Do the same with a sum: `fedtrain.privacy.client_level.release_sum`."""
        from fedtrain.privacy.client_level import release_sum  # noqa: PLC0415 - an audit needs no torch

        return release_sum(
            plan,
            clip_norm=clip_norm,
            total=total,
            count=count,
            source=source,
            modulus=modulus,
            count_modulus=count_modulus,
            largest_count=largest_count,
        )

    def adversaries(self, plan: PrivacyPlan, seen: Seen) -> tuple[Adversary, ...]:
        """Return who is bounded by what."""
        sums = seen.only_sums
        return (
            words.reader("noise on the sum of the clipped updates"),
            words.other_client(
                "noise on the sum; with secret cohorts only as far as it does not learn who else took part"
            ),
            Adversary(
                who="the server",
                sees=words.ONLY_SUMS.format("clipped updates") if sums else "every clipped update of every client",
                bounded=False,
                by="nothing: the server is trusted with the sums and the noise; a sum without noise still tells of its "
                "members"
                if sums
                else "nothing: the server is trusted with the updates and the noise",
            ),
            self._relay(seen),
            words.AUDITOR,
        )

    def _relay(self, seen: Seen) -> Adversary:
        if not seen.sealed:
            return words.relay(
                seen,
                bounded=False,
                by="nothing: the record does not say of every round that it was encrypted end to end",
            )
        return self._sealed_relay(seen)

    @abstractmethod
    def _sealed_relay(self, seen: Seen) -> Adversary:
        """Return what bounds who relays messages that are encrypted."""

    def trusted(self, plan: PrivacyPlan, seen: Seen) -> tuple[str, ...]:
        """Return whom the guarantee relies on, and for what."""
        clips = "" if seen.only_sums else "to clip, "
        keeps = "the sums, and whatever they tell," if seen.only_sums else "updates and cohorts"
        found = [f"The server, {clips}to add the noise, and to keep {keeps} to itself."]
        found.append(_OWN_CLIPPING if seen.summed else _OWN_RECORDS)
        if not seen.sealed:
            found.append("Whoever relays messages between server and clients, to keep what is in them to itself.")
        elif self.requires.hidden_cohorts:
            found.append("Whoever relays messages between server and clients, to keep to itself who is asked.")
        return tuple(found)

    def statement(self, odds: str, seen: Seen) -> str:
        """Return the guarantee in plain language."""
        server = (
            "Where it follows the protocol, the server sees the sum of the clients' updates of each round; it is "
            "trusted with that, and with the noise."
            if seen.only_sums
            else "The server sees each client's update and is trusted with it, and with the noise."
        )
        return (
            "Whoever sees the models of this run can hardly tell whether any one client's records were used at all: "
            f"{odds}. {server}"
        )

    def accesses(self) -> tuple[str, ...]:
        """Return which accesses to the data epsilon does not pay for."""
        return (
            "Which clients there are: their keys and ledgers are in this report.",
            "When the run began and ended: with secret cohorts, how long it took depends a little on how many trained.",
        )

    def gaps(self, seen: Seen) -> tuple[str, ...]:
        """Return that epsilon does not cover what sums tell the server. In record privacy it does."""
        return (_SUMS,) if seen.summed else ()

    def unproven(self, seen: Seen) -> str:
        """Return what nobody can prove of the noise."""
        clipped = "and that each client clipped" if seen.summed else "and clipped"
        return (
            f"that the server really drew the noise of the plan, from a generator that nobody can predict, {clipped}: "
            "clients signed that the server announced secure noise, and cannot see whether it is drawn"
        )

    @property
    def protects(self) -> str:
        """For whom the budget holds, in a few words."""
        return "for whole clients"


class ClientPoisson(ClientCentral):
    """Secret Poisson cohorts: each client is drawn by itself, with probability cohort / clients."""

    kind = "client, Poisson cohorts"
    neighbouring = "add or remove one client"
    requires = Requirements(hidden_cohorts=True, no_batch_statistics=True)

    def chosen(self, privacy: Privacy) -> bool:
        """Say whether an experiment asks for client privacy with Poisson cohorts."""
        return privacy.mode == self.mode and privacy.cohorts == "poisson" and not privacy.distributed

    def _rate(self, experiment: Experiment) -> float:
        return experiment.federation.cohort / experiment.federation.clients

    def _rounds(self, experiment: Experiment) -> int:
        # Nothing caps what Poisson sampling draws: a client may be drawn in every round.
        return experiment.federation.rounds

    def _sealed_relay(self, seen: Seen) -> Adversary:
        return words.relay(
            seen,
            bounded=False,
            by="nothing: epsilon relies on nobody knowing who took part; models and updates are encrypted",
        )

    def sampling(self, plan: PrivacyPlan) -> Sampling:
        """Return that clients are drawn in secret."""
        return words.poisson(
            plan,
            "clients",
            reason="The server, which is trusted, draws each client by itself and keeps the cohorts secret: "
            "they are not in this report.",
        )

    def onlooker(self) -> tuple[str, str]:
        """Return who can hardly tell what."""
        return (
            "Anyone who sees the models of all rounds, but not who was drawn for them nor single updates,",
            "any one client took part",
        )


class ClientCapped(ClientCentral):
    """Known cohorts of a fixed size: every participation counts in full, up to a cap."""

    kind = "client, capped participation"
    neighbouring = "zero out one client"
    requires = Requirements(no_batch_statistics=True)

    def chosen(self, privacy: Privacy) -> bool:
        """Say whether an experiment asks for client privacy with capped participation."""
        capped = privacy.mode == self.mode and privacy.cohorts == "capped"
        return capped and privacy.mechanism == "gaussian" and not privacy.distributed

    def _rate(self, experiment: Experiment) -> float:
        return 1.0

    def _rounds(self, experiment: Experiment) -> int:
        return words.participations(experiment)

    def _sealed_relay(self, seen: Seen) -> Adversary:
        return words.relay(seen, by="encryption of models and updates, and noise on the sum")

    def sampling(self, plan: PrivacyPlan) -> Sampling:
        """Return that no draw is relied on."""
        return words.KNOWN_COHORTS

    def onlooker(self) -> tuple[str, str]:
        """Return who can hardly tell what."""
        return (
            "Anyone who sees the models of all rounds, but not single updates,",
            "the data of any one client was used",
        )


_OWN_RECORDS = "Each client's own program, to train on nothing but its own records."
_OWN_CLIPPING = (
    "Each client's own program, to clip its update, and to train on nothing but its own records: one that does not "
    "clip harms its own records alone."
)
_SUMS = (
    "What a sum of updates tells the server: secure aggregation hides single updates in it, and is no differential "
    "privacy. Who has all but one update of a sum has that one, and who gets the same work summed in cohorts that "
    "differ in one client has the update of that client."
)
