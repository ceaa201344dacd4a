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


def test_fields_that_came_later_leave_the_digest_of_those_who_do_not_use_them():
    # As fedtrain computed it before data.target and data.label_columns were there.
    assert digest({}) == "0f6898a2952bb6a0cf795d0b062465adbafdd4cda5abdd83e17cceae499e2b68"
    later = {"data.source": "npz", "data.path": "x", "data.test_fraction": 0.2, "task.name": "regression"}
    assert digest(later | {"data.target": "number"}) != digest(later)
