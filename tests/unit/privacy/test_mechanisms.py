import pytest

from fedtrain.config import from_flat
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy import AdaptiveClipping
from fedtrain.privacy.correlation import Correlation
from fedtrain.privacy.mechanisms import mechanism_of

RECORD = {"privacy.mode": "record", "privacy.sampling_rate": 0.3, "training.local_epochs": 2.0}
CLIENT = {"privacy.mode": "client", "federation.clients": 50, "federation.cohort": 10, "federation.rounds": 30}
CAPPED = {**CLIENT, "privacy.cohorts": "capped"}


def spec_of(flat):
    experiment = from_flat(flat)
    return mechanism_of(experiment).spec(experiment)


def test_record_privacy_is_of_public_constants():
    spec = spec_of(RECORD)
    assert (spec.unit, spec.neighbouring) == ("record", "add or remove one record")
    assert (spec.steps_per_round, spec.rounds, spec.steps, spec.divisor) == (7, 10, 70, 32)
    assert spec.population == pytest.approx(32 / 0.3)
    assert spec.adaptive is None
    assert spec_of({**RECORD, "federation.cohort": 3, "privacy.max_participations": 3}).rounds == 3
    assert spec_of({**RECORD, "privacy.max_participations": 99}).rounds == 99
    steps = {name: value for name, value in RECORD.items() if name != "training.local_epochs"}
    assert spec_of({**steps, "training.local_steps": 5}).steps_per_round == 5
    assert spec_of(steps).steps_per_round == 4


def test_poisson_cohorts_are_amplified_over_all_rounds():
    spec = spec_of(CLIENT)
    assert (spec.unit, spec.neighbouring, spec.sampling_rate) == ("client", "add or remove one client", 0.2)
    assert (spec.divisor, spec.population, spec.steps_per_round, spec.rounds) == (10, 50.0, 1, 30)
    assert spec_of({**CLIENT, "federation.cohort": 50}).sampling_rate == 1.0


def test_capped_cohorts_count_participations_and_no_sampling():
    spec = spec_of({**CAPPED, "privacy.max_participations": 8})
    assert (spec.unit, spec.neighbouring, spec.sampling_rate) == ("client", "zero out one client", 1.0)
    assert (spec.divisor, spec.population, spec.steps_per_round, spec.rounds) == (10, 50.0, 1, 8)
    assert spec_of(CAPPED).rounds == 30


def test_correlated_noise_takes_its_bands_and_participations_from_the_separation():
    spec = spec_of({**CAPPED, "privacy.mechanism": "banded", "privacy.separation": 4})
    assert (spec.unit, spec.neighbouring, spec.sampling_rate) == ("client", "zero out one client", 1.0)
    assert spec.correlation == Correlation(rounds=30, separation=4, bands=4)
    assert (spec.divisor, spec.population, spec.steps_per_round, spec.rounds) == (10, 50.0, 1, 8)
    for most, kept in ((7, 7), (99, 8)):
        given = {"privacy.mechanism": "banded", "privacy.separation": 4, "privacy.max_participations": most}
        assert spec_of({**CAPPED, **given}).rounds == kept
    assert spec_of(CAPPED).correlation is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"privacy.separation": 6},
            "6 rounds of federation.cohort = 10 need 60 different clients, .* = 50; set .* to 5",
        ),
        ({"privacy.separation": 5, "federation.rounds": 4}, "separation = 5 is not allowed: it is from 2 to .*, 4"),
    ],
)
def test_too_few_clients_or_rounds_for_a_separation_are_refused_before_anything_is_spent(change, message):
    experiment = from_flat({**CAPPED, "privacy.mechanism": "banded", "privacy.delta": 1e-3, **change})
    with pytest.raises(PrivacySpecError, match=message):
        mechanism_of(experiment).plan(experiment)


def test_adaptive_clipping_is_a_part_of_the_spec():
    adaptive = {"privacy.adaptive_clipping": True, "privacy.clipping_quantile": 0.7, "privacy.clipping_rate": 0.1}
    assert spec_of({**CLIENT, **adaptive}).adaptive == AdaptiveClipping(
        quantile=0.7, learning_rate=0.1, count_noise=0.5
    )
    given = spec_of({**CAPPED, **adaptive, "privacy.clipping_noise": 3.0}).adaptive
    assert given.count_noise == 3.0
    assert spec_of(CLIENT).adaptive is None


def test_without_privacy_there_is_no_spec():
    with pytest.raises(PrivacySpecError, match="guarantees nothing"):
        spec_of({})
