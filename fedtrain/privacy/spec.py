"""Read the privacy spec off an experiment."""

from math import ceil

from fedtrain.config import Experiment
from fedtrain.privacy.plan import PrivacySpec


def privacy_spec(experiment: Experiment) -> PrivacySpec:
    """Return the spec of an experiment in record privacy. All of it is public.

    An epoch is 1 / sampling_rate steps, so that each record enters once in expectation.
    """
    privacy, training = experiment.privacy, experiment.training
    if privacy.sampling_rate is None:
        raise ValueError("record privacy without a sampling rate")
    rounds = experiment.federation.rounds
    return PrivacySpec(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        clip_norm=privacy.clip_norm,
        sampling_rate=privacy.sampling_rate,
        batch_size=training.batch_size,
        steps_per_round=training.local_steps or ceil((training.local_epochs or 1.0) / privacy.sampling_rate),
        rounds=min(privacy.max_participations or rounds, rounds),
    )
