import pytest

from fedtrain.config import from_flat, to_flat
from fedtrain.config.digest import config_digest


def digest(change):
    return config_digest(to_flat(from_flat(change)))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"privacy.clip_norm": 2.0}, {"data.test_fraction": 0.3}, {"device": "cpu"}]
)
def test_what_determines_results_changes_the_digest(change):
    assert digest(change) != digest({})


@pytest.mark.parametrize("change", [{"output.directory": "x"}, {"output.resume": True}, {"data.cache": "x"}])
def test_presentation_does_not(change):
    assert digest(change) == digest({})
