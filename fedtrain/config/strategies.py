"""What a strategy needs of a round: how many results, by its own condition, and what it does with them.

A robust strategy keeps its promise only above a number of results. Below it, Flower's Bulyan gives no model, its Krum
compares with too few neighbours, and its trimmed mean trims nothing, the last two without a word. So an experiment
whose cohorts are too small is refused before anything is spent, and a round that loses too many is not applied.

This is apart from the validation of an experiment, so that reports of runs from before can still be read.
"""

from dataclasses import dataclass

from fedtrain.config.experiment import Experiment
from fedtrain.errors import ConfigError

# Flower's defaults.
_MALICIOUS, _SELECTED, _BETA = 0, 1, 0.2


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A strategy's condition on the results of a round.

    Attributes:
        needed: results that it needs.
        because: the arithmetic, in words.
        lower: the parameters that the number comes from, which can be changed; empty if there are none.
        effect: what it does with a whole cohort; empty if there is nothing to say.
    """

    needed: int = 1
    because: str = ""
    lower: str = ""
    effect: str = ""


def condition_of(experiment: Experiment) -> Condition:
    """Return the condition of an experiment's strategy.

    The conditions are those of the papers: Krum needs ``n >= 2 f + 3`` for f malicious clients (Blanchard et al. 2017),
    MultiKrum that selects m of them ``m <= n - f - 2`` too (Damaskinos et al. 2019), and Bulyan ``n >= 4 f + 3`` (El
    Mhamdi et al. 2018). A trimmed mean cuts ``int(beta n)`` results off either end, and is to cut one. The median of
    fewer than three is their mean.

    >>> condition_of(Experiment.from_dict({"server.strategy": "Bulyan"})).needed
    3
    """
    parameters, cohort = experiment.server.parameters, experiment.federation.cohort
    malicious = _MALICIOUS if parameters.num_malicious_nodes is None else parameters.num_malicious_nodes
    of_malicious = "server.parameters.num_malicious_nodes"
    effect = f"assumes at most {malicious} malicious clients in a round"
    match experiment.server.strategy:
        case "Bulyan":
            because = f"4 num_malicious_nodes + 3 = {4 * malicious + 3}"
            return Condition(needed=4 * malicious + 3, because=because, lower=of_malicious, effect=effect)
        case "Krum":
            because = f"2 num_malicious_nodes + 3 = {2 * malicious + 3}"
            return Condition(needed=2 * malicious + 3, because=because, lower=of_malicious, effect=effect)
        case "MultiKrum":
            return _of_multikrum(malicious, parameters.num_nodes_to_select or _SELECTED, effect)
        case "FedTrimmedAvg":
            return _of_trimmed_mean(_BETA if parameters.beta is None else parameters.beta, cohort)
        case "FedMedian":
            return Condition(needed=3, because="the median of fewer than 3 is their mean")
    return Condition()


def _of_multikrum(malicious: int, selected: int, effect: str) -> Condition:
    of_krum, of_selection = 2 * malicious + 3, selected + malicious + 2
    if of_krum >= of_selection:
        return Condition(
            needed=of_krum,
            because=f"2 num_malicious_nodes + 3 = {of_krum}",
            lower="server.parameters.num_malicious_nodes",
            effect=effect,
        )
    return Condition(
        needed=of_selection,
        because=f"num_nodes_to_select + num_malicious_nodes + 2 = {of_selection}",
        lower="server.parameters.num_nodes_to_select",
        effect=effect,
    )


def _of_trimmed_mean(beta: float, cohort: int) -> Condition:
    cut = f"cuts {int(beta * cohort)} of {cohort} results off either end"
    if not beta:
        return Condition(effect=cut)
    needed = next(n for n in range(max(1, int(1 / beta) - 1), int(1 / beta) + 3) if int(beta * n))
    because = f"int(beta * n) is 0 below n = {needed}, and nothing is cut off"
    return Condition(needed=needed, because=because, lower="a higher server.parameters.beta", effect=cut)


def results_needed(experiment: Experiment) -> int:
    """Return how many usable results a round needs: by ``federation.min_results``, and by the strategy."""
    return max(experiment.federation.min_results, condition_of(experiment).needed)


def check_strategy(experiment: Experiment) -> None:
    """Refuse an experiment whose cohorts are too small for its strategy.

    Raises:
        ConfigError: says what is needed, why, and what can be changed.
    """
    condition, cohort = condition_of(experiment), experiment.federation.cohort
    if cohort >= condition.needed:
        return
    raise ConfigError(
        f'server.strategy = "{experiment.server.strategy}" needs {condition.needed} results in a round '
        f"({condition.because}), and federation.cohort = {cohort}: raise federation.cohort{_or(condition.lower)}, or "
        'take server.strategy = "FedAvg"'
    )


def _or(lower: str) -> str:
    if not lower:
        return ""
    return f", set {lower}" if lower.startswith("a ") else f", lower {lower}"


def shortage(experiment: Experiment) -> str:
    """Return why a round needs as many results as it does, for the words of a refusal."""
    condition, minimum = condition_of(experiment), experiment.federation.min_results
    if condition.needed <= minimum:
        return f"federation.min_results = {minimum}"
    return (
        f"{experiment.server.strategy} needs {condition.needed}, since {condition.because}; the round is not applied, "
        "and a resumed run asks it again"
    )
