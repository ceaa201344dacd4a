import pytest
from pydantic import ValidationError

from fedtrain.report.html import render_html
from fedtrain.report.intervals import group_table, headline_interval, interval_table
from fedtrain.report.numbers import between
from tests.unit.report.test_html import Page


def with_intervals(plain, best=None, **final):
    found = {"level": 0.95, "resamples": 1000, "final": final}
    plain["evaluation"]["intervals"] = found if best is None else {**found, "best": best}
    return plain


def test_an_interval_is_never_narrower_than_it_is():
    assert between(0.98769, 0.98761, "percent") == "98.76 to 98.77 %"
    assert between(0.0, 1.0, "percent") == "0.00 to 100.00 %"
    assert between(0.123456, 0.123456, "number") == "0.1234 to 0.1235"
    assert between(-1.23456, 2.0, "number") == "-1.2346 to 2.0000"


def test_a_report_without_intervals_is_as_it_always_was(build, parse):
    report = parse(build())
    assert "intervals" not in report.model_dump(mode="json")["evaluation"]
    assert interval_table(report.evaluation) is None
    assert headline_interval(report.evaluation) == ""
    assert "How certain this is" not in Page(render_html(report)).words


def test_the_page_shows_the_interval_of_each_metric_and_what_it_says(plain, parse):
    report = parse(with_intervals(plain, accuracy={"lower": 0.81239, "upper": 0.91231}))
    words = Page(render_html(report)).words
    assert "95 % interval: 81.23 to 91.24 %" in words
    assert "How certain this is" in words
    assert "1,000 resamples of the test records" in words
    assert "no interval" in words
    assert "too good" not in words
    assert type(report).model_validate_json(report.model_dump_json()) == report


def test_the_interval_of_the_best_round_is_said_to_be_too_good(plain, parse):
    last = plain["evaluation"]["history"][-1]
    plain["evaluation"]["final"] = plain["evaluation"]["history"][-1] = last | {"accuracy": 0.1}
    best = max(plain["evaluation"]["history"], key=lambda entry: entry["accuracy"])
    plain["evaluation"]["best"] = {"round": best["round"], "accuracy": best["accuracy"]}
    ends = {"accuracy": {"lower": 0.5, "upper": 0.99}}
    table = interval_table(parse(with_intervals(plain, best=ends)).evaluation)
    assert table.headings[3] == f"best, round {best['round']}"
    assert table.rows[0][1:3] == ("10.00 %", "no interval")
    assert table.rows[0][4] == "50.00 to 99.00 %"
    assert "too good" in table.note


@pytest.mark.parametrize(
    ("final", "message"),
    [
        ({"accuracy": {"lower": 0.9, "upper": 0.8}}, "lower = 0.9 is above upper = 0.8"),
        ({"speed": {"lower": 0.1, "upper": 0.8}}, "intervals has speed, which metrics does not name"),
    ],
)
def test_intervals_that_are_none_are_refused(plain, parse, final, message):
    with pytest.raises(ValidationError, match=message):
        parse(with_intervals(plain, **final))


def test_intervals_without_an_evaluation_are_refused(build, parse):
    with pytest.raises(ValidationError, match="intervals are of the last evaluation, and there is none"):
        parse(with_intervals(build(rounds=0)))


def group(name, records, accuracy):
    ends = {"lower": 0.4, "upper": 0.9}
    values = {"accuracy": accuracy, "loss": 1.5}
    return {"name": name, "records": records, "values": values, "intervals": {"accuracy": ends}}


def with_groups(plain, *groups, others=None, smallest=20):
    found = {"column": "site", "smallest": smallest, "groups": list(groups)}
    plain["evaluation"]["groups"] = found if others is None else {**found, "others": others}
    return plain


def test_a_report_without_groups_is_as_it_always_was(build, parse):
    report = parse(build())
    assert "groups" not in report.model_dump(mode="json")["evaluation"]
    assert group_table(report.evaluation) is None


def test_the_page_shows_each_group_with_its_interval_and_the_others_together(plain, parse):
    others = {key: value for key, value in group("", 30, None).items() if key != "name"} | {"groups": 4}
    report = parse(with_groups(plain, group("<b>north</b>", 50, 0.81239), group("south", 40, 0.5), others=others))
    words = Page(render_html(report)).words
    assert "By site" in words
    assert "<b>north</b>" in words
    assert "81.23 %" in words
    assert "4 other groups together" in words
    table = group_table(report.evaluation)
    assert table.headings[:4] == ("site", "records", "Accuracy", "interval")
    assert table.rows[1][:4] == ("south", "40", "50.00 %", "40.00 to 90.00 %")
    assert table.rows[2][:3] == ("4 other groups together", "30", "undefined")
    assert "A group of fewer than 20 records is not shown alone" in table.note
    assert type(report).model_validate_json(report.model_dump_json()) == report


def test_of_many_groups_the_page_shows_those_on_which_the_model_is_worst(plain, parse):
    groups = [group(f"g{number:03}", 1, number / 100) for number in range(80)]
    table = group_table(parse(with_groups(plain, *groups, smallest=1)).evaluation)
    assert [row[0] for row in table.rows] == [f"g{number:03}" for number in range(20)]
    assert "The 20 groups of 80" in table.note


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([group("b", 30, 0.5), group("a", 30, 0.5)], "not in the order of their names"),
        ([group("a", 30, 0.5), group("a", 30, 0.5)], "not in the order of their names, each once"),
        ([group("a", 19, 0.5)], "'a' has fewer records than smallest = 20"),
        ([group("a", 10**9, 0.5)], "groups have more records than the last evaluation"),
        ([group("a", 30, 0.5) | {"values": {"speed": 1.0}}], "groups has speed, which metrics does not name"),
    ],
)
def test_groups_that_cannot_be_are_refused(plain, parse, groups, message):
    with pytest.raises(ValidationError, match=message):
        parse(with_groups(plain, *groups))
