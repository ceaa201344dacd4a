"""Read the privacy spec off an experiment."""

from math import ceil

from fedtrain.config import Experiment
from fedtrain.privacy.plan import AdaptiveClipping, PrivacySpec

# Andrew et al. 2021 take a twentieth of the expected cohort: enough for a useful count, and nearly free.
_COUNT_NOISE = 1 / 20


def privacy_spec(experiment: Experiment) -> PrivacySpec:
    """Return the spec of a private experiment. All of it is public.

    In record privacy an epoch is 1 / sampling_rate steps, so that each record enters once in expectation, and a client
    has batch_size / sampling_rate records in expectation.

    Raises:
        ValueError: the experiment has no privacy.
    """
    if experiment.privacy.mode == "record":
        return _record(experiment)
    if experiment.privacy.mode == "client":
        return _client(experiment)
    raise ValueError("an experiment without privacy promises nothing")


def _record(experiment: Experiment) -> PrivacySpec:
    privacy, training = experiment.privacy, experiment.training
    assert privacy.sampling_rate is not None  # the experiment is validated
    return PrivacySpec(
        unit="record",
        neighbouring="add or remove one record",
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        clip_norm=privacy.clip_norm,
        sampling_rate=privacy.sampling_rate,
        divisor=training.batch_size,
        population=training.batch_size / privacy.sampling_rate,
        steps_per_round=training.local_steps or ceil((training.local_epochs or 1.0) / privacy.sampling_rate),
        rounds=_participations(experiment),
    )


def _client(experiment: Experiment) -> PrivacySpec:
    privacy, federation = experiment.privacy, experiment.federation
    poisson = privacy.cohorts == "poisson"
    adaptive = AdaptiveClipping(
        quantile=privacy.clipping_quantile,
        learning_rate=privacy.clipping_rate,
        count_noise=privacy.clipping_noise or federation.cohort * _COUNT_NOISE,
    )
    return PrivacySpec(
        unit="client",
        neighbouring="add or remove one client" if poisson else "zero out one client",
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        clip_norm=privacy.clip_norm,
        sampling_rate=federation.cohort / federation.clients if poisson else 1.0,
        divisor=federation.cohort,
        population=float(federation.clients),
        steps_per_round=1,
        # Nothing caps what Poisson sampling draws: a client may be drawn in every round.
        rounds=federation.rounds if poisson else _participations(experiment),
        adaptive=adaptive if privacy.adaptive_clipping else None,
    )


def _participations(experiment: Experiment) -> int:
    # More than the rounds of the experiment is room for rounds that are lost and asked again.
    return experiment.privacy.max_participations or experiment.federation.rounds
