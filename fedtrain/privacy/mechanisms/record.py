"""Record privacy at each client: DP-SGD (Abadi et al. 2016).

In each local step every record of a client enters with the sampling rate, its gradient is brought down to the clipping
norm, and Gaussian noise is added to the sum. Two data sets are neighbours if one has one record more. All that the
client sends follows from the result, so that epsilon bounds everyone, the server included.
"""

from math import ceil, sqrt
from typing import TYPE_CHECKING

from fedtrain.config import Experiment, Privacy
from fedtrain.privacy.mechanisms import words
from fedtrain.privacy.mechanisms.base import Adversary, Arrays, Mechanism, Requirements, Sampling, Seen, Sent, Training
from fedtrain.privacy.plan import PrivacyPlan
from fedtrain.privacy.spec import PrivacySpec

if TYPE_CHECKING:
    from fedtrain.privacy.noise import RandomSource


class RecordLocal(Mechanism):
    """DP-SGD at each client, over Poisson-sampled batches."""

    kind = "record"
    mode = "record"
    unit = "record"
    neighbouring = "add or remove one record"
    requires = Requirements(per_record_gradients=True)

    def chosen(self, privacy: Privacy) -> bool:
        """Say whether an experiment asks for record privacy with all the noise at each client."""
        return privacy.mode == self.mode and not privacy.distributed

    def spec(self, experiment: Experiment) -> PrivacySpec:
        """Return the guarantee of an experiment.

        An epoch is 1 / sampling_rate steps, so that each record enters once in expectation, and a client has
        batch_size / sampling_rate records in expectation.
        """
        privacy, training = experiment.privacy, experiment.training
        assert privacy.sampling_rate is not None  # the experiment is validated
        return self.spec_with(
            experiment,
            sampling_rate=privacy.sampling_rate,
            divisor=training.batch_size,
            population=training.batch_size / privacy.sampling_rate,
            steps_per_round=training.local_steps or ceil((training.local_epochs or 1.0) / privacy.sampling_rate),
            rounds=words.participations(experiment),
        )

    def deviation(self, plan: PrivacyPlan, clients: int) -> float:
        """Return the deviation of the mean over clients, each of which has noise of its own."""
        return super().deviation(plan, clients) / sqrt(clients)

    def contribute(
        self,
        plan: PrivacyPlan,
        training: Training,
        received: Arrays,
        *,
        clip_norm: float,
        source: "RandomSource",
    ) -> Sent:
        """Train privately, and send the result as it is."""
        trained = training.by_record(plan, source)
        return Sent(arrays={name: trained[name] for name in received})

    def adversaries(self, plan: PrivacyPlan, seen: Seen) -> tuple[Adversary, ...]:
        """Return who is bounded by what."""
        by = "noise in every step at the client"
        server = f"{by}, whatever model is sent"
        if seen.only_sums:
            server += "; that updates are summed bounds nothing"
        return (
            words.reader(by),
            words.other_client(by),
            Adversary(
                who="the server, also one that chooses the models it sends",
                sees=words.ONLY_SUMS.format("updates")
                if seen.only_sums
                else "every update of every client, and who took part",
                bounded=True,
                by=server,
            ),
            words.relay(seen, by=by),
            words.AUDITOR,
        )

    def trusted(self, plan: PrivacyPlan, seen: Seen) -> tuple[str, ...]:
        """Return that each client relies on its own program alone."""
        return (
            "Each client's own program, to sample, clip and add noise: one that does not harms its own records alone.",
        )

    def sampling(self, plan: PrivacyPlan) -> Sampling:
        """Return that records are drawn in secret."""
        return words.own_batches(plan)

    def statement(self, odds: str, seen: Seen) -> str:
        """Return the guarantee in plain language."""
        return (
            "Whoever sees every model and every update of this run, the server included, can hardly tell whether any "
            f"one record was among a client's training records: {odds}."
        )

    def accesses(self) -> tuple[str, ...]:
        """Return which accesses to the data epsilon does not pay for."""
        return (words.DATASET_DIGEST,)

    def onlooker(self) -> tuple[str, str]:
        """Return who can hardly tell what."""
        return (
            "Anyone who sees all that a client sends, the server included,",
            "any one record was among those of the client",
        )

    def unproven(self, seen: Seen) -> str:
        """Return what nobody can prove of the noise."""
        return (
            "that each client really drew the noise of the plan, and clipped: clients signed that they drew secure "
            "noise, and drawing itself cannot be proven"
        )
