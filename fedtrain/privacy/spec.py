"""Read the privacy spec off an experiment."""

from fedtrain.config import Experiment
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.privacy.plan import PrivacySpec


def privacy_spec(experiment: Experiment) -> PrivacySpec:
    """Return the spec of a private experiment. All of it is public.

    Raises:
        PrivacySpecError: the experiment has no privacy.
    """
    return mechanism_of(experiment).spec(experiment)
