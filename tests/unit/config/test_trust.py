"""Who adds the noise: what goes with it, and what does not."""

import pytest

from fedtrain.config import from_flat
from fedtrain.config.loading import config_digest, spelled_out
from fedtrain.errors import ConfigError, PrivacySpecError
from fedtrain.privacy.mechanisms import mechanism_of

RECORD = {"privacy.mode": "record", "privacy.sampling_rate": 0.1}
CLIENT = {"privacy.mode": "client", "privacy.cohorts": "capped"}
SHARED = {"privacy.trust": "distributed", "privacy.colluders": 1}


@pytest.mark.parametrize(
    ("flat", "kind"),
    [
        ({}, "none"),
        (RECORD, "record"),
        ({**RECORD, "privacy.trust": "local"}, "record"),
        ({**RECORD, **SHARED}, "record, distributed noise"),
        ({"privacy.mode": "client"}, "client, Poisson cohorts"),
        ({**CLIENT, "privacy.trust": "central"}, "client, capped participation"),
        ({**CLIENT, **SHARED}, "client, distributed noise"),
    ],
)
def test_trust_chooses_the_mechanism(flat, kind):
    assert mechanism_of(from_flat(flat)).kind == kind


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"privacy.trust": "local"}, 'says who adds noise, and privacy.mode = "none" has none'),
        ({**RECORD, "privacy.trust": "central"}, r'does not go with .*"record"; allowed: "local" or "distributed"'),
        ({**CLIENT, "privacy.trust": "local"}, r'does not go with .*"client"; allowed: "central" or "distributed"'),
        ({**RECORD, "privacy.colluders": 1}, 'privacy.colluders = 1 is for privacy.trust = "distributed"'),
        ({**RECORD, "privacy.trust": "distributed"}, "privacy.colluders is not set, and .* needs it: how many members"),
        ({**RECORD, **SHARED, "privacy.colluders": -1}, "privacy.colluders = -1: input should be greater"),
        (
            {**RECORD, **SHARED, "server.strategy": "Krum"},
            r"Krum\" needs single updates .* or set another privacy.trust",
        ),
        ({**CLIENT, **SHARED, "server.strategy": "FedMedian"}, 'FedMedian" needs single updates'),
        ({**RECORD, **SHARED, "federation.cohort": 1}, "the sum of one update is that update"),
        ({**CLIENT, **SHARED, "privacy.cohorts": "poisson"}, r'privacy.cohorts = "capped", or another privacy.trust'),
        ({**CLIENT, **SHARED, "privacy.adaptive_clipping": True}, "would need shares of noise of its own"),
        (
            {**CLIENT, **SHARED, "privacy.mechanism": "banded", "privacy.separation": 2},
            'mechanism = "banded" is for noise that the server adds',
        ),
        ({**RECORD, **SHARED, "transport.secagg.bound": 2.0}, "transport.secagg.bound is not for"),
        (
            {**RECORD, **SHARED, "training.local_steps": 5, "federation.rounds": 20},
            r"local_steps = 5 is not for .* 20 rounds of 5 steps are federation.rounds = 100 rounds of one",
        ),
        (
            {**RECORD, **SHARED, "training.local_epochs": 2.0, "federation.rounds": 3},
            r"local_epochs = 2 is not for .* so many passes are federation.rounds = 60 rounds",
        ),
        ({**RECORD, **SHARED, "training.optimizer": "adam"}, r"training.optimizer = 'adam' would change nothing"),
        ({**RECORD, **SHARED, "training.momentum": 0.9}, r"training.momentum = 0.9 would .* \"FedAvgM\" .momentum."),
        ({**RECORD, **SHARED, "training.weight_decay": 0.1}, r"training.weight_decay = 0.1 would change nothing"),
    ],
)
def test_what_does_not_go_together_is_refused(flat, message):
    with pytest.raises(ConfigError, match=message):
        from_flat(flat)


def test_more_colluders_than_survivors_leave_no_noise():
    experiment = from_flat({**RECORD, **SHARED, "privacy.colluders": 7})
    with pytest.raises(PrivacySpecError, match=r"threshold = 7 less privacy.colluders = 7 leaves 0 shares"):
        mechanism_of(experiment).plan(experiment, noise_multiplier=1.0)


def test_bits_that_are_not_set_are_those_of_before_where_noise_is_not_shared():
    """A run of an earlier version, whose configuration says 16, goes on; with shared noise unset is something else."""
    unset, before = {**RECORD}, {**RECORD, "transport.secagg.bits": 16}
    assert config_digest({"transport.secagg.bits": "", **unset}) == config_digest(before)
    assert spelled_out({"transport.secagg.bits": ""}) == {"transport.secagg.bits": 16}
    shared = {"transport.secagg.bits": "", "privacy.trust": "distributed"}
    assert spelled_out(shared) == shared
    assert from_flat(unset).transport.secagg.bits_of_change == 16
