import pytest

from fedtrain.config import from_flat, to_flat
from fedtrain.config.loading import config_digest
from fedtrain.errors import ConfigError
from fedtrain.sweep import Grid

PRIVATE = {"name": "mine", "privacy.mode": "record", "privacy.sampling_rate": 0.1, "privacy.delta": 1e-4}


def test_the_runs_are_all_combinations_in_order():
    grid = Grid.of(PRIVATE, ["privacy.epsilon=1,2", "training.learning_rate=0.1, 0.5"])
    assert [dict(point.settings) for point in grid.points] == [
        {"privacy.epsilon": 1, "training.learning_rate": 0.1},
        {"privacy.epsilon": 1, "training.learning_rate": 0.5},
        {"privacy.epsilon": 2, "training.learning_rate": 0.1},
        {"privacy.epsilon": 2, "training.learning_rate": 0.5},
    ]
    assert [point.folder for point in grid.points][:2] == [
        "1_epsilon=1_learning_rate=0.1",
        "2_epsilon=1_learning_rate=0.5",
    ]
    assert grid.points[3].experiment.privacy.epsilon == 2
    assert grid.points[3].experiment.name == "mine: privacy.epsilon=2, training.learning_rate=0.5"
    assert set(grid.series("privacy.epsilon").values()) == {"training.learning_rate=0.1", "training.learning_rate=0.5"}


def test_a_comma_in_quotes_or_brackets_is_a_part_of_a_value():
    over = ['data.feature_columns="a,b",["a", "b", "c"]']
    base = {"data.source": "npz", "data.path": "x", "data.test_fraction": 0.5}
    found = Grid.of(base, over).over["data.feature_columns"]
    assert found == ("a,b", "a, b, c")


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ([], "varies one field or more"),
        (["privacy.epsilon"], "write it as key=value,value"),
        (["privacy.epsilon="], "write it as key=value,value"),
        (["privacy.epsilon=1,,2"], "one comma between each two"),
        (["privacy.epsilon=1,2,"], "one comma between each two"),
        (["privacy.epsilon=1,2,1"], "has the value 1 twice"),
        (["privacy.epsilon=1", "privacy.epsilon=2"], "twice; write all of its values in one"),
        (["privacy.epsilom=1,2"], "did you mean privacy.epsilon?"),
        (["privacy.tuning=a,b"], "cannot vary privacy.tuning: the program fills it in"),
        (["output.screen=none"], "cannot vary output.screen: it changes no result"),
        (["privacy.epsilon=1,-2"], "the run with privacy.epsilon=-2 cannot be used"),
        (["seed=" + ",".join(map(str, range(1001)))], "1001 runs, and 1000 are allowed"),
    ],
)
def test_what_is_no_grid_is_refused(over, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        Grid.of(PRIVATE, over)


def test_each_run_declares_the_others_and_what_bounds_a_choice():
    grid = Grid.of({**PRIVATE, "privacy.noise": "secure"}, ["privacy.epsilon=1,2,4"])
    texts = [point.experiment.privacy.tuning for point in grid.points]
    assert texts[1] == (
        "one of 3 runs on the same records, number 2 of a sweep over privacy.epsilon (1, 2, 4); runs elsewhere are not "
        "counted. Epsilon is that of this run alone. It does not cover a choice among the runs by their results, which "
        "depend on private records: all together are bounded by the sum of their budgets, epsilon 7 at delta 0.0003"
    )
    assert grid.caution in f"Epsilon does not cover {texts[0].partition('It does not cover ')[2]}."


def test_sums_of_budgets_are_never_rounded_down():
    base = {**PRIVATE, "privacy.noise": "secure", "privacy.delta": 1.2345678e-5}
    assert "epsilon 2.00001 at delta 2.46914e-05" in Grid.of(base, ["privacy.epsilon=1,1.0000001"]).caution
    assert "epsilon 0.3 at delta" in Grid.of(base, ["privacy.epsilon=0.1,0.2"]).caution


def test_seeded_noise_is_said_to_protect_nobody():
    caution = Grid.of(PRIVATE, ["privacy.epsilon=1,2"]).caution
    assert "with secure noise all together would be bounded by the sum of their budgets, epsilon 3" in caution
    assert "seeded noise protects nobody" in caution


def test_a_run_without_privacy_is_said_to_have_no_epsilon():
    plain, private = Grid.of({"privacy.sampling_rate": 0.1}, ["privacy.mode=none,record"]).points
    assert "This run has no epsilon, and that of no other covers a choice" in plain.experiment.privacy.tuning
    assert "Epsilon is that of this run alone" in private.experiment.privacy.tuning


def test_what_was_declared_before_stays_in_front():
    (point,) = Grid.of({**PRIVATE, "privacy.tuning": "two runs in May"}, ["privacy.epsilon=1"]).points
    assert point.experiment.privacy.tuning.startswith("two runs in May; then one of 1 runs")


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (["privacy.mode=none,record"], "one of them has no privacy, and nothing bounds what a choice tells"),
        (["privacy.cohorts=poisson,capped"], "the runs guarantee different things, and no sum"),
        (["privacy.noise=seeded,secure"], "the runs guarantee different things, and no sum"),
        (["seed=1,2"], "training records of one run are test records of another"),
        (["data.max_records=100,200"], "the runs are on other records, or read them otherwise, and no sum"),
        (["federation.clients=100,200"], "a client has other records in another run, and no sum"),
        (["data.partition.alpha=0.1,1.0"], "a client has other records in another run, and no sum"),
        (["privacy.delta=0.5,0.6"], "their deltas add up to 1 or more, and nothing bounds"),
    ],
)
def test_what_no_sum_bounds_is_said_to_be_bounded_by_nothing(over, words):
    base = {"privacy.sampling_rate": 0.1} if "mode" in over[0] else {"privacy.mode": "client"}
    caution = Grid.of(base, over).caution
    assert words in caution
    assert "sum of their budgets" not in caution


@pytest.mark.parametrize("over", ["seed=1,2", "federation.clients=20,40", "data.partition.kind=iid,dirichlet"])
def test_records_are_the_same_units_however_they_are_split(over):
    base = {**PRIVATE, "data.source": "npz", "data.path": "a.npz", "data.test_path": "b.npz"}
    assert "bounded by the sum of their budgets, epsilon 16" in Grid.of(base, [over]).caution


def test_runs_on_other_records_are_not_said_to_be_on_the_same():
    (point, _) = Grid.of(PRIVATE, ["data.max_records=100,200"]).points
    assert point.experiment.privacy.tuning.startswith("one of 2 runs, number 1 of a sweep")


def test_ledgers_that_are_shared_are_said_to_add_up():
    (point,) = Grid.of({**PRIVATE, "federation.sites": "sites"}, ["privacy.epsilon=1"]).points
    assert "Epsilon is that of this run and of those before it in the same ledgers." in point.experiment.privacy.tuning
    assert "what they have spent in the end bounds all" in point.experiment.privacy.tuning


def test_what_a_run_declares_is_a_configuration_that_is_read_back():
    grid = Grid.of(PRIVATE, ["privacy.epsilon=1,2", "seed=1,2"])
    for point in grid.points:
        flat = to_flat(point.experiment)
        assert config_digest(to_flat(from_flat(flat))) == config_digest(flat)


def test_the_same_grid_is_the_same_sweep_whatever_only_shows_it():
    one = Grid.of(PRIVATE, ["privacy.epsilon=1,2"]).as_json()
    assert Grid.of({**PRIVATE, "output.screen": "none"}, ["privacy.epsilon=1,2"]).as_json() == one
    assert Grid.of(PRIVATE, ["privacy.epsilon=1,2,4"]).as_json() != one
    assert Grid.of({**PRIVATE, "seed": 3}, ["privacy.epsilon=1,2"]).as_json() != one
