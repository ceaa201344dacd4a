import copy
import json

import pytest
from pydantic import ValidationError

from fedtrain.report import Evaluation, Report


def test_a_report_is_read_back_as_it_was_written(plain, parse):
    report = parse(plain)
    text = report.model_dump_json()
    assert Report.model_validate_json(text) == report
    assert json.loads(text) == plain


def test_a_report_without_privacy_or_rounds_is_read_back(build, parse):
    report = parse(build(rounds=0, private=False))
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_report_cannot_be_changed(plain, parse):
    report = parse(plain)
    with pytest.raises(ValidationError, match="frozen"):
        report.rounds = 3
    with pytest.raises(ValidationError, match="frozen"):
        report.privacy.epsilon = 0.1


def test_the_json_schema_describes_every_field():
    schema = Report.model_json_schema(by_alias=True)
    for part in [schema, *schema["$defs"].values()]:
        for name, field in part.get("properties", {}).items():
            assert field.get("description"), (part["title"], name)
    assert "schema" in schema["required"]


def _set(tree, path, value):
    *branches, leaf = path.split(".")
    for branch in branches:
        tree = tree[int(branch) if branch.isdigit() else branch]
    if isinstance(tree, list):
        tree[int(leaf)] = value
    else:
        tree[leaf] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", "fedtrain.report/2", "fedtrain.report/3"),
        ("created", "2026-02-03T04:05:06+01:00", "not in UTC"),
        ("created", "2026-02-03T04:05:06", "timezone"),
        ("created", 1_700_000_000, "datetime"),
        ("status", "done", "completed"),
        ("status", "failed", "needs a reason"),
        ("reason", "why", "needs all planned rounds, and no reason"),
        ("planned_rounds", 31, "needs all planned rounds"),
        ("planned_rounds", 2, "more than planned_rounds"),
        ("rounds", 30.0, "integer"),
        ("rounds", True, "integer"),
        ("seconds", -1.0, "greater than or equal"),
        ("config", {"a": None}, "config"),
        ("extra", 1, "Extra inputs"),
        ("privacy.extra", 1, "Extra inputs"),
        ("evaluation.final", None, "not the last evaluation"),
        ("evaluation.best", None, "best is to be set exactly"),
        ("evaluation.best.accuracy", 0.999, "not the best of history"),
        ("evaluation.history.2.round", 1, "order of the rounds"),
        ("evaluation.history.0.accuracy", 1.2, "less than or equal to 1"),
        ("evaluation.history.0.confusion.0", [1], "not square"),
        ("evaluation.history.0.per_class.recall", [0.5], "not of one length"),
        ("privacy.epsilon", 7.0, "not the largest over the clients"),
        ("privacy.epsilon", None, "are to be set"),
        ("privacy.delta", None, "are to be set"),
        ("privacy.delta", 1.0, "less than 1"),
        ("privacy.mechanism", None, "are to be set"),
        ("privacy.mechanism.sampling_rate", 0.0, "greater than 0"),
        ("privacy.unit", "client", "is not what mode"),
        ("privacy.neighbouring", "zero out one client", "is not what mode"),
        ("privacy.mode", "client", "is not what mode"),
        ("privacy.noise", None, "are to be set"),
        ("privacy.mechanism.name", "Gaussian", "does not go with sampling_rate"),
        ("privacy.mechanism.sampling_rate", 0.07, "sampling.rate = 0.08"),
        ("privacy.sampling.rate", 0.07, "sampling.rate = 0.07"),
        ("privacy.sampling.scheme", "Poisson, clients", "does not sample what mode"),
        ("privacy.sampling.scheme", "none", "rate 1 and no amplification"),
        ("privacy.accountants.0.epsilon", 7.0, "is 7.0, not epsilon 7.2"),
        ("privacy.accountants.0.role", "ceiling", '"claim" among them'),
        ("privacy.accountants.1.role", "claim", "each role once"),
        ("privacy.clients.1.run_epsilon", 7.3, "run_epsilon is more than epsilon"),
        ("privacy.clients.1.unanswered", [31], "those of unanswered among them"),
        ("privacy.events.3.run", "another", "those of its events of this run"),
        ("privacy.curve.29.clients", [7.2], "curve has 1 clients in round 30"),
        ("proof", None, "proof is to be set"),
        ("round_log.0.cohort", None, "secret together"),
        ("round_log.0.completed", None, "secret together"),
        ("privacy.clients.1.steps", 12, "events are 360 steps"),
        ("privacy.clients.1.rounds", [1, 2], "rounds are not those of its events of this run"),
        ("privacy.clients.1.client", 0, "more than once"),
        ("privacy.clients.1.client", 77, "clients lacks: [1]"),
        ("privacy.curve.29.max", 7.9, "not the largest over the clients"),
        ("privacy.curve.0.median", 7.9, "more than max"),
        ("privacy.curve.3.round", 2, "curve is not in the order"),
        ("privacy.mode", "none", "epsilon is set"),
        ("data.histogram.0", [1], "not of 10 classes"),
        ("data.histogram", [], "0 rows for 10 clients"),
        ("data.train_records", 5, "train_records = 5"),
        ("data.train_records", None, "train_records = None"),
        ("round_log.0.completed", [0, 0], "each once"),
        ("round_log.0.dropped", [{"client": 99, "reason": "late"}], "of the cohort"),
        ("round_log.1.round", 1, "round_log is not in the order"),
        ("model.final.sha256", "1F" * 32, "pattern"),
    ],
)
def test_what_is_inconsistent_is_refused(plain, parse, path, value, message):
    broken = copy.deepcopy(plain)
    _set(broken, path, value)
    with pytest.raises(ValidationError) as raised:
        parse(broken)
    assert message in str(raised.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("path", ["seconds", "config.seed", "evaluation.history.0.loss", "round_log.0.learning_rate"])
def test_numbers_that_are_not_finite_are_refused(plain, path, number):
    broken = copy.deepcopy(plain)
    keys = ["config", "seed"] if path == "config.seed" else path.split(".")
    tree = broken
    for key in keys[:-1]:
        tree = tree[int(key) if key.isdigit() else key]
    tree[keys[-1]] = "@"
    with pytest.raises(ValidationError, match="finite"):
        Report.model_validate_json(json.dumps(broken).replace('"@"', number))


@pytest.mark.parametrize("missing", ["schema", "privacy", "round_log", "software"])
def test_a_missing_field_is_refused(plain, parse, missing):
    del plain[missing]
    with pytest.raises(ValidationError, match="Field required"):
        parse(plain)


def test_evaluations_beyond_the_rounds_are_refused(plain, parse):
    plain.update(status="interrupted", reason="Ctrl-C", rounds=29)
    with pytest.raises(ValidationError, match="reaches round 30"):
        parse(plain)


def test_a_task_may_measure_what_it_likes():
    text = '{"round": 3, "word_error": 0.25, "levels": [1, 2.5, null], "by_age": {"child": 0.5}, "undefined": null}'
    evaluation = Evaluation.model_validate_json(text)
    assert evaluation.accuracy is None
    assert evaluation.own == {
        "word_error": 0.25,
        "levels": [1, 2.5, None],
        "by_age": {"child": 0.5},
        "undefined": None,
    }
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


@pytest.mark.parametrize(
    "value", ["text", True, float("nan"), [1.0, float("inf")], {"a": {"b": "text"}}, 2**53, -(10**400)]
)
def test_measurements_are_finite_numbers(value):
    with pytest.raises(ValidationError, match="extra_one"):
        Evaluation(round=1, extra_one=value)


def test_a_client_that_never_took_part_has_spent_nothing(plain, parse):
    plain["data"]["clients"] = 11
    plain["data"]["histogram"].append([0] * 10)
    nothing = {"epsilon": 0.0, "run_epsilon": 0.0, "steps": 0, "entries": 0, "budget": None, "dataset": None}
    plain["privacy"]["clients"].append({"client": 10, **nothing, "rounds": [], "unanswered": []})
    for point in plain["privacy"]["curve"]:
        point["clients"].append(0.0)
    assert parse(plain).privacy.clients[10].epsilon == 0.0


def test_a_curve_that_ends_elsewhere_is_refused(plain, parse):
    plain["privacy"]["curve"][-1].update(max=7.9, clients=[])
    with pytest.raises(ValidationError, match=r"curve ends at 7\.9"):
        parse(plain)


def test_earlier_runs_count_for_epsilon_and_not_for_the_rounds(plain, parse):
    plain["privacy"]["events"].insert(0, plain["privacy"]["events"][0] | {"run": "earlier", "round": 77})
    plain["privacy"]["clients"][0]["steps"] += 12
    assert parse(plain).privacy.clients[0].rounds == tuple(range(1, 31))


def test_secret_cohorts_are_null(plain, parse):
    plain["round_log"][0].update(cohort=None, completed=None, dropped=None)
    assert parse(plain).round_log[0].cohort is None


def with_sum(plain, **changes):
    """Let the first round be a sum of nine updates, one client lost on each way."""
    entry = plain["round_log"][0]
    entry.update(completed=entry["cohort"][1:], dropped=[{"client": entry["cohort"][0], "reason": "late"}])
    numbers = {"threshold": 7, "neighbours": 9, "bits": 16, "lost_masking": 1, "lost_unmasking": 1}
    entry["secagg"] = numbers | changes
    return plain


@pytest.mark.parametrize(
    "changes", [{}, {"lost_unmasking": 2}, {"threshold": 9, "lost_unmasking": 0}, {"neighbours": 6}]
)
def test_a_sum_is_read_back(plain, parse, changes):
    report = parse(with_sum(plain, **changes))
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert report.round_log[0].secagg.lost_masking == 1
    assert report.round_log[1].secagg is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lost_masking": 0},
            "round 1: secagg.lost_masking = 0, and of 10 clients 9 are in completed and 1 in dropped",
        ),
        ({"lost_unmasking": 3}, "lost_unmasking = 3 of 9 clients leaves fewer than secagg.threshold = 7"),
        ({"neighbours": 10}, "round 1: secagg.neighbours = 10 in a cohort of 10"),
        ({"threshold": 11}, "threshold = 11 is more than a client and its 9 neighbours"),
        ({"threshold": 1}, "greater than or equal to 2"),
        ({"neighbours": 0}, "greater than or equal to 1"),
        ({"bits": 1}, "greater than or equal to 2"),
        ({"lost_unmasking": -1}, "greater than or equal to 0"),
        ({"bound": 1.0}, "Extra inputs"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(plain, parse, changes, message):
    with pytest.raises(ValidationError) as raised:
        parse(with_sum(plain, **changes))
    assert message in str(raised.value)


def test_with_a_sum_every_client_of_the_cohort_completed_or_was_dropped(plain, parse):
    plain = with_sum(plain)
    plain["round_log"][0]["completed"].pop()
    with pytest.raises(ValidationError, match="of 10 clients 8 are in completed and 1 in dropped"):
        parse(plain)


def test_secret_cohorts_are_not_summed(plain, parse):
    plain = with_sum(plain)
    plain["round_log"][0].update(cohort=None, completed=None, dropped=None)
    with pytest.raises(ValidationError, match="with secagg clients know the cohort, and it cannot be secret"):
        parse(plain)


@pytest.mark.parametrize("name", ["sealed", "secagg"])
def test_each_round_says_what_its_transport_was(plain, parse, name):
    del plain["round_log"][0][name]
    with pytest.raises(ValidationError, match="Field required"):
        parse(plain)


def test_exceeded_budgets_are_named(plain, parse):
    assert parse(plain).privacy.exceeded == ()
    plain["privacy"]["budget"] = 7.0
    plain["privacy"]["clients"][4]["budget"] = 6.5
    first, second = parse(plain).privacy.exceeded
    assert first == "this run charged epsilon 7.20, more than 7, to client 0, 1, 2, 3, 4, 5, 6, 7, ..."
    assert second == "client 4 has spent 7.20, more than its own 6.5"


def test_a_round_that_was_repeated_is_charged_twice(plain, parse):
    plain["privacy"]["events"].append(plain["privacy"]["events"][0])
    with pytest.raises(ValidationError, match="372 steps"):
        parse(plain)
    plain["privacy"]["clients"][0]["steps"] += 12
    assert parse(plain).privacy.clients[0].steps == 372


def test_a_deployment_does_not_know_the_clients_records(plain, parse):
    plain["data"].update(train_records=None, histogram=None)
    assert parse(plain).data.histogram is None
