"""What a strategy needs of a round is told before anything is spent."""

import numpy as np
import pytest
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean

from fedtrain.config import from_flat
from fedtrain.config.sections import STRATEGY_PARAMETERS
from fedtrain.config.strategies import check_strategy, condition_of, results_needed, shortage
from fedtrain.errors import ConfigError
from fedtrain.serverapp.preparation import prepare


def experiment(strategy, cohort=10, **values):
    parameters = {f"server.parameters.{name}": value for name, value in values.items() if name != "min_results"}
    federation = {"federation.clients": 100, "federation.cohort": cohort}
    if "min_results" in values:
        federation["federation.min_results"] = values["min_results"]
    return from_flat({"server.strategy": strategy, **federation, **parameters})


@pytest.mark.parametrize(
    ("strategy", "parameters", "needed"),
    [
        ("Bulyan", {}, 3),
        ("Bulyan", {"num_malicious_nodes": 2}, 11),
        ("Krum", {}, 3),
        ("Krum", {"num_malicious_nodes": 3}, 9),
        ("MultiKrum", {"num_malicious_nodes": 1}, 5),
        ("MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 4}, 7),
        ("FedTrimmedAvg", {}, 5),
        ("FedTrimmedAvg", {"beta": 0.1}, 10),
        ("FedTrimmedAvg", {"beta": 0.3}, 4),
        ("FedTrimmedAvg", {"beta": 0.34}, 3),
        ("FedTrimmedAvg", {"beta": 0.49}, 3),
        ("FedMedian", {}, 3),
    ],
)
def test_a_cohort_of_as_many_passes_and_one_less_is_refused(strategy, parameters, needed):
    enough = experiment(strategy, needed, **parameters)
    assert condition_of(enough).needed == results_needed(enough) == needed
    check_strategy(enough)
    fewer = experiment(strategy, needed - 1, **parameters)
    with pytest.raises(ConfigError) as caught:
        prepare(fewer)
    message = str(caught.value)
    assert message.startswith(f'server.strategy = "{strategy}" needs {needed} results in a round (')
    assert f"and federation.cohort = {needed - 1}: raise federation.cohort" in message


@pytest.mark.parametrize("beta", [0.01, 0.07, 0.1, 1 / 3, 0.29, 0.2, 0.15, 0.05, 1 / 49, 1e-3])
def test_the_arithmetic_of_the_trimmed_mean_is_that_of_flower(beta):
    needed = condition_of(experiment("FedTrimmedAvg", beta=beta)).needed

    def trims(clients):
        values = np.zeros(clients)
        values[-1] = 1.0
        return trim_mean(values, beta) == 0

    assert trims(needed)
    assert not trims(needed - 1)


@pytest.mark.parametrize("strategy", sorted(set(STRATEGY_PARAMETERS) - {"Bulyan", "Krum", "MultiKrum", "FedMedian"}))
def test_others_need_one_result(strategy):
    parameters = {"beta": 0.0} if strategy == "FedTrimmedAvg" else {}
    one = experiment(strategy, 1, **parameters)
    check_strategy(one)
    assert results_needed(one) == 1


def test_the_larger_minimum_counts_and_says_whose_it_is():
    own = experiment("Krum", min_results=8)
    assert results_needed(own) == 8
    assert shortage(own) == "federation.min_results = 8"
    assert shortage(experiment("Krum", num_malicious_nodes=1, min_results=2)).startswith("Krum needs 5, since 2 num_")


def test_the_effect_on_a_cohort_is_said():
    assert condition_of(experiment("FedTrimmedAvg", 12)).effect == "cuts 2 of 12 results off either end"
    assert condition_of(experiment("FedTrimmedAvg", 4, beta=0.0)).effect == "cuts 0 of 4 results off either end"
    assert condition_of(experiment("Krum")).effect == "assumes at most 0 malicious clients in a round"
