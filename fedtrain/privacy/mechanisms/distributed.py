"""Distributed noise: each client adds a share, and the server learns nothing but sums that have many shares in them.

A client that adds all the noise that protects it alone adds n times what n clients together need. Here the server gets
sums alone, by secure aggregation, and a client adds its part of the noise to whole numbers before they are masked
(`fedtrain.privacy.shares`). The guarantee is that of the sum with the shares that are sure to be in it: those of
``threshold`` survivors, without which no sum is unmasked, less those of ``colluders`` that may tell the server what
they drew, or draw nothing. It bounds everyone, the server included, as long as no more members of a cohort collude.

Another member knows its own share, and so counts as a colluder where it wants to learn something. A server that does
not follow the protocol of secure aggregation can unmask a sum of fewer than ``threshold`` members
(`NoiseShares.honest_told_apart`), and the claim says how many shares are left then.

Without masks the server sees what each client sends, with a single share in it. That is for simulations, whose result
is the same, and the claim says that it bounds the server no more.
"""

from abc import abstractmethod
from math import sqrt
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Experiment, Privacy
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.clipping import clip_update, difference
from fedtrain.privacy.events import Event, SampledSkellam
from fedtrain.privacy.mechanisms import words
from fedtrain.privacy.mechanisms.base import Adversary, Arrays, Mechanism, Requirements, Sampling, Seen, Sent, Training
from fedtrain.privacy.plan import PrivacyPlan, calibrate
from fedtrain.privacy.shares import Grid, NoiseShares, clip_norm_of, grid_to_account, least_threshold
from fedtrain.privacy.spec import PrivacySpec

if TYPE_CHECKING:
    from fedtrain.privacy.noise import RandomSource


class Distributed(Mechanism):
    """What both units have in common.

    Attributes:
        bits: of a number that is sent, unless something else is configured.
    """

    trust = "distributed"
    plan_kind = "skellam-shares"
    shares_noise = True
    bits: ClassVar[int] = 22

    def chosen(self, privacy: Privacy) -> bool:
        """Say whether an experiment asks for distributed noise on what this mechanism protects."""
        return privacy.mode == self.mode and privacy.distributed

    def shares(self, experiment: Experiment, *, reach: int) -> NoiseShares:
        """Return how the noise of an experiment is shared.

        Args:
            experiment: the experiment.
            reach: bound on a coordinate of a client's sum, in clipping norms.
        """
        secagg, members = experiment.transport.secagg, experiment.federation.cohort
        assert experiment.privacy.colluders is not None  # the experiment is validated
        return NoiseShares(
            members=members,
            threshold=least_threshold(members) if secagg.threshold is None else secagg.threshold,
            colluders=experiment.privacy.colluders,
            bits=self.bits if secagg.bits is None else secagg.bits,
            reach=reach,
        )

    def plan(self, experiment: Experiment, *, noise_multiplier: float | None = None) -> PrivacyPlan:
        """Return the plan of an experiment, whose grid and noise fit in the bits of a coordinate.

        Raises:
            PrivacySpecError: they do not, the noise does not keep the guarantee, or members share masks with some of
                the others alone.
        """
        spec, noise = self.spec(experiment), experiment.privacy.noise_multiplier
        noise = noise if noise_multiplier is None else noise_multiplier
        shares = spec.shares
        assert shares is not None  # this mechanism makes no other
        neighbours, others = experiment.transport.secagg.neighbours, shares.members - 1
        if neighbours not in {None, others}:
            raise PrivacySpecError(
                f"transport.secagg.neighbours = {neighbours} is not for shared noise: how many shares a server leaves "
                f"that lies about who dropped out rests on masks that each member shares with all {others} others; "
                "leave it unset"
            )

        def event_of(noise: float, steps: int) -> Event:
            return _event(spec, grid_to_account(shares, noise), steps)

        plan = calibrate(spec, noise_multiplier=noise, kind=self.plan_kind, event_of=event_of)
        assert plan.grid.most  # an error if there is none
        return plan

    def event(self, plan: PrivacyPlan, rounds: int) -> Event:
        """Return what taking part in so many rounds does: sums with the shares that are counted on, and no others."""
        return _event(plan.spec, plan.grid, plan.spec.steps_per_round * rounds)

    def deviation(self, plan: PrivacyPlan, clients: int) -> float:
        """Return the deviation of the mean of a whole cohort, all of whose shares are in it."""
        grid = plan.grid
        return sqrt(clients * grid.share) / grid.steps / self._divisor(plan, clients)

    @abstractmethod
    def _divisor(self, plan: PrivacyPlan, clients: int) -> float:
        """Return what a sum over so many clients is divided by, which everyone knows."""

    def largest(self, plan: PrivacyPlan) -> int:
        """Return the largest magnitude of a whole number that a client sends."""
        grid = plan.grid
        return grid.limit + grid.most

    def adversaries(self, plan: PrivacyPlan, seen: Seen) -> tuple[Adversary, ...]:
        """Return who is bounded by what."""
        shares = _shares(plan)
        by = f"{_counted(shares)}, whatever model is sent"
        sums = f"the sum of the {self._sent} of each round with the noise in it, and who took part"
        return (
            words.reader(_counted(shares)),
            Adversary(
                who="another client",
                sees=f"{words.OTHER_CLIENT}; its own share of the noise",
                bounded=shares.colluders > 0,
                by=f"{_counted(shares)}; a member that wants to learn something is one of the colluders"
                if shares.colluders
                else "nothing: no colluder is allowed for, and a member can take its own share off the sum; the noise "
                f"of {shares.honest - 1} shares is left, and not of {shares.honest}",
            ),
            Adversary(
                who="the server, if it follows the protocol of secure aggregation; it may choose the models",
                sees=sums if seen.only_sums else f"{self._sent} of single clients, each with one share of the noise",
                bounded=seen.only_sums,
                by=by
                if seen.only_sums
                else f"nothing: it sees single clients, with one share of {shares.honest} that are needed",
            ),
            _liar(shares, sums, seen),
            self._relay(shares, seen),
            words.AUDITOR,
        )

    _sent = ""

    def _relay(self, shares: NoiseShares, seen: Seen) -> Adversary:
        if seen.sealed or seen.only_sums:
            return words.relay(seen, by=_counted(shares))
        return words.relay(
            seen, bounded=False, by="nothing: it sees single clients, neither encrypted nor masked, with one share each"
        )

    def trusted(self, plan: PrivacyPlan, seen: Seen) -> tuple[str, ...]:
        """Return whom the guarantee relies on, and for what."""
        shares = _shares(plan)
        found = [
            (
                f"{shares.honest} of the clients in each sum, to add their shares of the noise and to tell nobody: at "
                f"least {shares.threshold} of the {shares.members} members of a cohort are in it, and no more than "
                f"{shares.colluders} collude."
            ),
            self._own_program,
        ]
        if not seen.only_sums:
            found.append("The server, to look at sums alone: it got what each client sent, with a single share in it.")
        if not (seen.sealed or seen.only_sums):
            found.append("Whoever relays messages between server and clients, to keep what is in them to itself.")
        return tuple(found)

    _own_program = ""

    def gaps(self, seen: Seen) -> tuple[str, ...]:
        """Return what members and servers that do not keep to the protocol can cost."""
        return (
            (
                "More colluders than are stated: each takes one share off the noise that is counted on. A client that "
                "adds its share twice costs accuracy alone."
            ),
        )

    def unproven(self, seen: Seen) -> str:
        """Return what nobody can prove of the noise."""
        return (
            "that each client really drew its share of the noise, and clipped: clients signed that they drew secure "
            "noise, and drawing itself cannot be proven; nor can it be proven that no more clients collude than stated"
        )


class RecordDistributed(Distributed):
    """One step a round: each client sums its clipped gradients over a Poisson-sampled batch, and adds its share."""

    kind = "record, distributed noise"
    mode = "record"
    unit = "record"
    neighbouring = "add or remove one record"
    requires = Requirements(per_record_gradients=True, only_sums=True)
    _sent = "clipped gradients"
    _own_program = "Each client's own program, to sample and to clip: one that does not harms its own records alone."

    def spec(self, experiment: Experiment) -> PrivacySpec:
        """Return the guarantee of an experiment: one step a round over a batch of batch_size records in expectation."""
        privacy, training = experiment.privacy, experiment.training
        assert privacy.sampling_rate is not None  # the experiment is validated
        return self.spec_with(
            experiment,
            sampling_rate=privacy.sampling_rate,
            divisor=training.batch_size,
            population=training.batch_size / privacy.sampling_rate,
            rounds=words.participations(experiment),
            shares=self.shares(experiment, reach=training.batch_size),
        )

    def contribute(
        self, plan: PrivacyPlan, training: Training, received: Arrays, *, clip_norm: float, source: "RandomSource"
    ) -> Sent:
        """Sum the clipped gradients of a batch, round the sum, and add the share. The plan's norm holds."""
        from fedtrain.privacy.whole_numbers import with_share  # noqa: PLC0415 - an audit draws no noise

        bound = plan.spec.clip_norm
        sums = training.gradient_sum(plan, source, clip_norm=clip_norm_of(bound))
        values = {name: np.asarray(sums[name], dtype=np.float64) for name in received}
        return Sent(arrays=dict(with_share(values, plan.grid, clip_norm=bound, source=source)))

    def change(
        self, plan: PrivacyPlan, *, total: Arrays, clients: int, learning_rate: float
    ) -> dict[str, NDArray[np.float64]]:
        """Return a step against the noisy mean gradient, of the expected number of records at so many clients."""
        from fedtrain.privacy.whole_numbers import mean_of  # noqa: PLC0415 - likewise

        divisor = self._divisor(plan, clients)
        mean = mean_of(total, plan.grid, clip_norm=plan.spec.clip_norm, divisor=divisor)
        return {name: -learning_rate * value for name, value in mean.items()}

    def _divisor(self, plan: PrivacyPlan, clients: int) -> float:
        return clients * plan.spec.divisor

    def sampling(self, plan: PrivacyPlan) -> Sampling:
        """Return that records are drawn in secret."""
        return words.own_batches(plan)

    def statement(self, odds: str, seen: Seen) -> str:
        """Return the guarantee in plain language."""
        return f"{_whoever(seen)} can hardly tell whether any one record was among a client's training records: {odds}."

    def accesses(self) -> tuple[str, ...]:
        """Return which accesses to the data epsilon does not pay for."""
        return (words.DATASET_DIGEST,)

    def onlooker(self) -> tuple[str, str]:
        """Return who can hardly tell what."""
        return (
            "Anyone who sees all sums and models, the server included, and colludes with no more clients than stated,",
            "any one record was among those of a client",
        )


class ClientDistributed(Distributed):
    """Each client clips its whole update, and adds its share; cohorts are known, and each participation counts."""

    kind = "client, distributed noise"
    mode = "client"
    unit = "client"
    neighbouring = "zero out one client"
    requires = Requirements(no_batch_statistics=True, only_sums=True)
    counts_clients = True
    bits = 20
    _sent = "clipped updates"
    _own_program = (
        "Each client's own program, to clip its update, and to train on nothing but its own records: one that does not "
        "harms its own records alone."
    )

    def spec(self, experiment: Experiment) -> PrivacySpec:
        """Return the guarantee of an experiment: a participation is one release, up to a cap."""
        federation = experiment.federation
        return self.spec_with(
            experiment,
            sampling_rate=1.0,
            divisor=federation.cohort,
            population=float(federation.clients),
            rounds=words.participations(experiment),
            shares=self.shares(experiment, reach=1),
        )

    def contribute(
        self, plan: PrivacyPlan, training: Training, received: Arrays, *, clip_norm: float, source: "RandomSource"
    ) -> Sent:
        """Train plainly, clip the whole change, round it, and add the share. The plan's norm holds."""
        from fedtrain.privacy.whole_numbers import with_share  # noqa: PLC0415 - an audit draws no noise

        bound, trained = plan.spec.clip_norm, training.plainly()
        change = {name: difference(trained[name], value) for name, value in received.items()}
        clipped, _ = clip_update(change, clip_norm_of(bound))
        values = {name: np.asarray(value, dtype=np.float64) for name, value in clipped.items()}
        return Sent(arrays=dict(with_share(values, plan.grid, clip_norm=bound, source=source)))

    def change(
        self, plan: PrivacyPlan, *, total: Arrays, clients: int, learning_rate: float
    ) -> dict[str, NDArray[np.float64]]:
        """Return the noisy mean update of the clients in the sum."""
        from fedtrain.privacy.whole_numbers import mean_of  # noqa: PLC0415 - likewise

        return mean_of(total, plan.grid, clip_norm=plan.spec.clip_norm, divisor=self._divisor(plan, clients))

    def _divisor(self, plan: PrivacyPlan, clients: int) -> float:
        return clients

    def sampling(self, plan: PrivacyPlan) -> Sampling:
        """Return that no draw is relied on."""
        return words.KNOWN_COHORTS

    def statement(self, odds: str, seen: Seen) -> str:
        """Return the guarantee in plain language."""
        return f"{_whoever(seen)} can hardly tell whether any one client's records were used at all: {odds}."

    def accesses(self) -> tuple[str, ...]:
        """Return which accesses to the data epsilon does not pay for."""
        return ("Which clients there are, and which rounds they took part in: their ledgers are in this report.",)

    def onlooker(self) -> tuple[str, str]:
        """Return who can hardly tell what."""
        return (
            "Anyone who sees all sums and models, the server included, and colludes with no more clients than stated,",
            "the data of any one client was used",
        )

    @property
    def protects(self) -> str:
        """For whom the budget holds, in a few words."""
        return "for whole clients"


def _event(spec: PrivacySpec, grid: Grid, steps: int) -> SampledSkellam:
    return SampledSkellam(
        sampling_rate=spec.sampling_rate,
        variance=grid.variance,
        l2=grid.l2,
        l1=grid.l1,
        values=grid.values,
        steps=steps,
    )


def _shares(plan: PrivacyPlan) -> NoiseShares:
    assert plan.spec.shares is not None  # its mechanism makes no other
    return plan.spec.shares


def _counted(shares: NoiseShares) -> str:
    return (
        f"noise of {shares.honest} shares, those of {shares.threshold} survivors less {shares.colluders} colluders, in "
        "every sum"
    )


def _liar(shares: NoiseShares, sums: str, seen: Seen) -> Adversary:
    left = shares.honest_told_apart
    bounded = seen.only_sums and left == shares.honest
    if bounded:
        by = f"{_counted(shares)}: as many honest shares are in whatever it can unmask"
    elif left and seen.only_sums:
        by = (
            f"noise of {left} shares in the place of {shares.honest}, which epsilon does not count: so many honest "
            "ones are left in what it can unmask"
        )
    else:
        by = "nothing: it can unmask single clients" if seen.only_sums else "nothing: it sees single clients"
    return Adversary(
        who="the server, if it tells its clients different stories about who survived",
        sees=f"{sums}, of fewer clients than the threshold" if seen.only_sums else "single clients",
        bounded=bounded,
        by=by,
    )


def _whoever(seen: Seen) -> str:
    if seen.only_sums:
        return (
            "Whoever sees every model and every sum of this run, the server included if it follows the protocol of "
            "secure aggregation,"
        )
    return (
        "Whoever sees the models of this run, or the sums that the server made (it got what each client sent, with a "
        "single share of the noise, and is trusted with that),"
    )
