import pytest

from fedtrain.config import Experiment, from_flat, to_flat
from fedtrain.config.checking import missing_files, problems
from fedtrain.config.described import described
from fedtrain.errors import ConfigError


def test_every_field_is_described_as_the_experiment_has_it():
    assert list(described()) == list(to_flat(Experiment()))
    assert described()["privacy.noise"].values == ('"seeded"', '"secure"')
    assert described()["federation.clients"].allowed == "a whole number at least 1"
    assert described()["privacy.sampling_rate"].allowed == 'a number above 0 and at most 1, or "" to leave it unset'
    assert all(field.about for field in described().values())


@pytest.mark.parametrize("flat", [{}, {"federation.rounds": 3, "privacy.mode": "record", "privacy.sampling_rate": 0.1}])
def test_what_can_be_used_has_no_problem(flat):
    assert problems(flat) == ()


def test_all_problems_are_told_at_once_in_the_order_of_the_fields():
    flat = {
        "privacy.epsilon": -1,
        "privacy.mode": "record",
        "training.optimiser": "sgd",
        "federation.clients": "3",
        "data.source": "parquet",
    }
    found = problems(flat)
    assert [problem.field for problem in found] == [
        "federation.clients",
        "privacy.epsilon",
        "training.optimiser",
        "",
        "",
    ]
    clients, epsilon, unknown, *sections = found
    assert "'3' is not allowed" in str(clients)
    assert "allowed: a whole number at least 1" in str(clients)
    assert "allowed: a number above 0" in str(epsilon)
    assert "meaning: the budget of each client" in str(epsilon)
    assert "did you mean training.optimizer?" in unknown.message
    assert {"path is not set" in problem.message for problem in sections} == {True, False}
    assert {"privacy.sampling_rate is not set" in problem.message for problem in sections} == {True, False}


def test_what_rests_on_a_wrong_field_is_not_told():
    (problem,) = problems({"privacy.mode": "record", "privacy.sampling_rate": 7})
    assert problem.field == "privacy.sampling_rate"


def test_a_cohort_that_is_too_small_for_its_strategy_is_a_problem():
    (problem,) = problems({"server.strategy": "Bulyan", "federation.cohort": 2})
    assert "needs 3 results" in problem.message


@pytest.mark.parametrize(
    "flat",
    [{"privacy.epsilon": 0}, {"nothing": 1}, {"privacy.mode": "client", "privacy.sampling_rate": 0.1}, {"seed": -1}],
)
def test_there_is_a_problem_wherever_an_experiment_is_refused(flat):
    with pytest.raises(ConfigError):
        from_flat(flat)
    assert problems(flat)


def test_files_that_are_not_here_are_named_and_patterns_are_not(tmp_path):
    (tmp_path / "here.npz").write_bytes(b"")
    flat = {"data.source": "npz", "data.path": str(tmp_path / "here.npz"), "data.test_path": str(tmp_path / "gone.npz")}
    (missing,) = missing_files(from_flat(flat))
    assert "data.test_path" in missing
    assert missing_files(from_flat(flat | {"data.test_path": str(tmp_path / "*.npz")})) == ()


@pytest.mark.parametrize("name", ["a/" * 4000, "~nobody-of-this-name/a.npz"])
def test_a_path_that_cannot_be_looked_for_is_missing(name):
    experiment = from_flat({"data.source": "npz", "data.path": name, "data.test_fraction": 0.5})
    assert [text.partition(" ")[0] for text in missing_files(experiment)] == ["data.path"]


def test_a_value_of_any_length_is_shown_in_a_line():
    for key in ("federation.rounds", "nothing"):
        (problem,) = problems({key: "x" * 10_000})
        assert len(problem.message) < 5000


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://measurements:hunter2@db.example.org/mlflow",
        "mysql+pymysql://measurements:hun/ter2@db.example.org/mlflow",
        "postgresql://db.example.org/mlflow?password=hunter2",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3Dhunter2",
        "https://hunter2@mlflow.example.org",
        "https://mlflow.example.org/?access_token=hunter2",
    ],
)
def test_a_password_in_a_field_which_the_report_would_hold_is_refused_and_not_shown(address):
    (problem,) = problems({"output.mlflow": address})
    with pytest.raises(ConfigError, match="mlflow has a password") as refused:
        from_flat({"output.mlflow": address})
    for text in (problem.message, str(refused.value)):
        assert "has a password" in text
        assert "ter2" not in text


@pytest.mark.parametrize(
    "address",
    ["sqlite:///m:l@flow.db", "http://127.0.0.1:5000", "postgresql://measurements@db.example.org:5432/mlflow"],
)
def test_an_address_without_a_password_has_no_problem(address):
    assert problems({"output.mlflow": address}) == ()
