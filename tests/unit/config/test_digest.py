import pytest

from fedtrain.config import from_flat
from fedtrain.config.digest import experiment_digest


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"privacy.clip_norm": 2.0}, {"data.test_fraction": 0.3}, {"device": "cpu"}]
)
def test_what_determines_results_changes_the_digest(change):
    assert experiment_digest(from_flat(change)) != experiment_digest(from_flat({}))


@pytest.mark.parametrize("change", [{"output.directory": "x"}, {"output.resume": True}, {"data.cache": "x"}])
def test_presentation_does_not(change):
    assert experiment_digest(from_flat(change)) == experiment_digest(from_flat({}))
