import tomllib

import pytest

from fedtrain.config import Experiment, flatten, from_flat, to_flat
from fedtrain.config.commented import commented
from fedtrain.config.described import described


def test_the_values_are_those_that_were_given_and_every_field_is_there():
    values = {
        "name": 'a "b" \\ é \x7f \x85 \U0001f642',
        "seed": 7,
        "privacy.mode": "record",
        "data.partition.alpha": 0.5,
        "device": "cpu",
    }
    text = commented(values, head="head")
    assert flatten(tomllib.loads(text)) == values
    assert text.startswith("# head\n")
    assert max(map(len, text.splitlines())) <= 120
    for field in described().values():
        assert f"{field.key.rpartition('.')[2]} = " in text
        assert field.about.split()[-1] in text


def test_a_field_whose_comment_is_taken_away_has_its_default():
    lines = commented({}, head="head").splitlines()
    tables = tomllib.loads("\n".join(line if line.startswith("# ") else line.removeprefix("#") for line in lines))
    assert to_flat(from_flat(flatten(tables))) == to_flat(Experiment())
    assert len(flatten(tables)) == len(described())


@pytest.mark.parametrize("key", ["privacy.epsilon", "transport.secagg.bits", "server.parameters.tau"])
def test_a_comment_is_under_the_table_of_its_field(key):
    table, _, name = key.rpartition(".")
    after = commented({}, head="head").partition(f"[{table}]\n")[2].partition("\n[")[0]
    assert f"#{name} = " in after
