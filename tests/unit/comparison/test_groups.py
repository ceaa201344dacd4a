import csv
import json
import warnings

import pytest
from rich.console import Console

from fedtrain.comparison import compared, group_comparison, group_rows, incomparable, rows, write_groups
from fedtrain.errors import UsageError
from tests.unit.comparison.test_comparison import report
from tests.unit.report.conftest import read
from tests.unit.report.test_intervals import group, with_groups

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app


def reported(*groups, others=None, smallest=20, **settings):
    return with_groups(report(**settings), *groups, others=others, smallest=smallest)


def run(label, *groups, metric=None, **settings):
    return compared(label, read(reported(*groups, **settings)), metric=metric)


def drawn(table):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def numbered(count, value):
    return [group(f"g{number:03}", 1, value(number)) for number in range(count)]


def test_the_groups_of_each_run_are_beside_each_other_and_the_worst_one_is_first():
    runs = [
        run("plain", group("north", 50, 0.9), group("south", 40, 0.81)),
        run("private", group("north", 50, 0.8), group("south", 40, 0.61)),
    ]
    found = group_comparison(runs)
    assert drawn(found.table) == [
        "site records plain private",
        "south 40 81.00 % (40.00 to 90.00 %) 61.00 % (40.00 to 90.00 %)",
        "north 50 90.00 % (40.00 to 90.00 %) 80.00 % (40.00 to 90.00 %)",
    ]
    assert found.notes[0] == "Accuracy on each group, by site, with its 95 % interval, worst first"
    assert len(found.notes) == 2


def test_a_metric_of_which_less_is_better_puts_the_largest_first():
    first, second = group("a", 30, 0.9), group("b", 30, 0.9)
    first["values"]["loss"], second["values"]["loss"] = 0.2, 1.2
    lines = drawn(group_comparison([run("one", first, second, metric="loss")]).table)
    assert [line.split()[0] for line in lines] == ["site", "b", "a"]
    assert lines[1] == "b 30 1.2000"


def test_runs_without_groups_have_no_such_table():
    plain = compared("plain", read(report()))
    assert group_comparison([plain]) is None
    assert group_rows([plain]) == []
    assert "group" not in rows([plain])[0]
    with pytest.raises(UsageError, match=r"data\.group_column"):
        write_groups("groups.csv", [plain])


def test_of_many_groups_and_runs_a_terminal_shows_the_worst_and_the_first():
    runs = [run(f"run{number}", *numbered(100, lambda place: place / 100), smallest=1) for number in range(9)]
    found = group_comparison(runs)
    lines = drawn(found.table)
    assert lines[0] == "site records run0 run1 run2 run3 run4 run5"
    assert [line.split()[0] for line in lines[1:]] == [f"g{number:03}" for number in range(20)]
    assert found.notes[1:3] == (
        "20 of 100 groups are shown; --groups FILE writes all",
        "6 of 9 runs are shown; --groups FILE writes all",
    )
    assert len(group_rows(runs)) == 900


def test_runs_of_other_groups_or_of_other_test_records_are_not_in_the_table():
    first = run("a", group("north", 50, 0.9))
    other = run("b", group("north", 49, 0.9))
    assert incomparable([first, other]) == {
        "b": "it has other test records: the number of test records of each site is north: 49, and north: 50 in a"
    }
    plain = reported(group("north", 50, 0.9))
    plain["evaluation"]["groups"]["column"] = "ward"
    runs = [compared("none", read(report())), first, other, compared("ward", read(plain))]
    assert drawn(group_comparison(runs).table)[0] == "site records a"


def test_a_group_that_one_run_does_not_measure_and_names_of_others_only_show_themselves():
    runs = [run("a", group("no\x1b[2Jrth", 50, None))]
    assert drawn(group_comparison(runs).table)[1] == "no\N{REPLACEMENT CHARACTER}[2Jrth 50 undefined"


def test_the_file_has_a_row_for_each_run_and_group_and_the_others_together(tmp_path):
    others = {key: value for key, value in group("", 30, None).items() if key != "name"} | {"groups": 4}
    runs = [run("a", group("x, y", 50, 0.8), others=others), run("b", group("x, y", 50, 0.9))]
    write_groups(tmp_path / "groups.csv", runs)
    with (tmp_path / "groups.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["run"], row["group"], row["together"], row["records"], row["value"]) for row in found] == [
        ("a", "x, y", "1", "50", "0.8"),
        ("a", "", "4", "30", ""),
        ("b", "x, y", "1", "50", "0.9"),
    ]
    assert (found[0]["column"], found[0]["metric"], found[0]["lower"], found[0]["upper"]) == (
        *("site", "accuracy"),
        *("0.4", "0.9"),
    )


def test_the_command_prints_groups_and_writes_them(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "report.json").write_text(json.dumps(reported(group("north", 50, 0.9))))
    file = tmp_path / "groups.csv"
    result = CliRunner().invoke(app, ["compare", str(tmp_path / "one"), "--groups", str(file)])
    assert result.exit_code == 0
    assert "look at the intervals" in result.stdout
    assert len(file.read_text().splitlines()) == 2
    answer = json.loads(CliRunner().invoke(app, ["compare", str(tmp_path / "one"), "--json"]).stdout)
    assert [row["group"] for row in answer["groups"]] == ["north"]
