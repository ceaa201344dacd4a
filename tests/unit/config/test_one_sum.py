"""What one sum over all records cannot be had with is refused with the value that is needed."""

import pytest

from fedtrain.config import from_flat
from fedtrain.errors import ConfigError

SUM = {"federation.rounds": 1, "privacy.mode": "record", "privacy.sampling_rate": 1.0}
LEAST_SQUARES = SUM | {"training.solver": "least-squares"}
STATISTICS = SUM | {"task.name": "statistics", "task.columns": "age: 17 to 90"}


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        (
            {"privacy.mode": "client", "privacy.sampling_rate": ""},
            'privacy.mode = "client" adds none for single records; set privacy.mode = "record"',
        ),
        ({"privacy.mode": "none", "privacy.sampling_rate": ""}, 'privacy.mode = "none" adds none for single records'),
        ({"federation.rounds": 2}, "federation.rounds = 2 is not for .*; set 1$"),
        ({"privacy.sampling_rate": 0.5}, "privacy.sampling_rate = 0.5 is not for .*; set 1.0$"),
        ({"privacy.clip_norm": 2.0}, "privacy.clip_norm = 2.0 is not for .*; set 1.0$"),
        ({"server.strategy": "FedAdam"}, "server.strategy = 'FedAdam' is not for .*; set \"FedAvg\"$"),
        ({"training.optimizer": "adam"}, "training.optimizer = 'adam' is not for .*; set \"sgd\"$"),
        ({"training.momentum": 0.9}, "training.momentum = 0.9 is not for"),
        ({"training.weight_decay": 0.1}, "training.weight_decay = 0.1 is not for"),
        ({"training.warmup_rounds": 1}, "training.warmup_rounds = 1 is not for"),
        ({"training.local_steps": 2}, "training.local_steps = 2 is not for"),
        ({"training.local_epochs": 2.0}, "training.local_epochs = 2.0 is not for"),
        ({"task.augment": True}, "task.augment = True is not for .*; set false$"),
    ],
)
@pytest.mark.parametrize("kind", [LEAST_SQUARES, STATISTICS])
def test_it_takes_one_step_over_each_record(kind, flat, message):
    with pytest.raises(ConfigError, match=message):
        from_flat(kind | flat)


@pytest.mark.parametrize("kind", [LEAST_SQUARES, STATISTICS])
def test_what_changes_nothing_may_be_as_it_is(kind):
    from_flat(kind | {"training.local_steps": 1, "training.learning_rate": 0.5, "training.schedule": "cosine"})


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        (
            LEAST_SQUARES | {"task.model": "mlp"},
            'task.model = "mlp" is not fitted by training.solver = "least-squares"',
        ),
        ({"training.feature_norm": 2.0}, 'feature_norm = 2 is for solver = "least-squares", and it is "gradient"'),
        ({"training.target_upper": 2.0}, 'target_upper = 2 is for solver = "least-squares"'),
        ({"task.bins": 3}, 'task.columns and task.bins are for task.name = "statistics", and it is "vision"'),
        ({"task.columns": "age: 17 to 90"}, 'task.columns and task.bins are for task.name = "statistics"'),
    ],
)
def test_fields_of_one_are_not_for_the_other(flat, message):
    with pytest.raises(ConfigError, match=message):
        from_flat(flat)
