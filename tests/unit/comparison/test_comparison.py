import csv
import json
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from fedtrain.comparison import (
    compared,
    comparison_table,
    differences,
    incomparable,
    read_runs,
    rows,
    write_csv,
    write_plot,
)
from fedtrain.errors import ReportError, UsageError
from tests.unit.report.conftest import plain_report, read


def report(*, epsilon=8.0, learning_rate=0.5, private=True, rounds=6, accuracy=None, **config):
    plain = plain_report(rounds=rounds, clients=4, cohort=4, private=private)
    plain["config"] |= {"privacy.epsilon": epsilon, "training.learning_rate": learning_rate, **config}
    final = plain["evaluation"]["history"][-1]
    if accuracy is not None:
        final["accuracy"] = accuracy
        plain["evaluation"]["best"] = {"round": rounds, "accuracy": accuracy}
    value = final["accuracy"]
    plain["evaluation"]["intervals"] = {
        "level": 0.95,
        "resamples": 1000,
        "final": {"accuracy": {"lower": value - 0.01, "upper": value + 0.005}},
    }
    if private:
        for client in plain["privacy"]["clients"]:
            client.update(epsilon=0.9 * epsilon, run_epsilon=0.9 * epsilon)
        for accountant in plain["privacy"]["accountants"]:
            accountant["epsilon"] = 0.9 * epsilon
        plain["privacy"].update(epsilon=0.9 * epsilon, curve=[])
    return plain


def run(label, **settings):
    return compared(label, read(report(**settings)))


def shown(runs):
    console = Console(width=200, record=True, file=None)
    with console.capture() as capture:
        console.print(comparison_table(runs))
    return capture.get()


def test_a_run_is_what_its_report_says():
    found = run("first", accuracy=0.99)
    assert (found.epsilon, found.delta, found.rounds, found.clients) == (7.2, 1e-5, 6, 4)
    assert (found.value, found.interval) == (0.99, (0.98, 0.995))
    assert found.update_bytes == 4 * 26_010
    assert run("plain", private=False).epsilon is None


def test_an_update_of_secure_aggregation_has_as_many_bytes_as_its_words():
    plain = report()
    for entry in plain["round_log"]:
        lost = len(entry["dropped"])
        entry["secagg"] = {"threshold": 2, "neighbours": 3, "bits": 14, "lost_masking": lost, "lost_unmasking": 0}
    # 4 * (2^13 - 1) fits in two bytes with a sign; one more bit does not.
    assert compared("sum", read(plain)).update_bytes == 2 * 26_010
    for entry in plain["round_log"]:
        entry["secagg"]["bits"] = 15
    assert compared("sum", read(plain)).update_bytes == 3 * 26_010


def test_fields_that_are_not_the_same_in_all_runs_are_found():
    runs = [run("a"), run("b", learning_rate=1.0, epsilon=2.0)]
    assert differences(runs) == {"training.learning_rate": (0.5, 1.0), "privacy.epsilon": (8.0, 2.0)}
    assert differences([runs[0], runs[0]]) == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda plain: plain["config"].update({"seed": 2}), "seed, which drew the test records, is 2, and 1 in a"),
        (lambda plain: plain["config"].update({"data.path": "other.npz"}), "data.path is other.npz, and unset in a"),
        (lambda plain: plain["data"].update(test_records=9), "the number of test records is 9, and 10000 in a"),
        (
            lambda plain: plain["data"].update(shape=[3, 28, 28]),
            "the shape of a record is 3, 28, 28, and 1, 28, 28 in a",
        ),
        (lambda plain: plain["evaluation"].update(baseline={"accuracy": 0.3}), "the baseline of accuracy"),
    ],
)
def test_runs_with_other_test_records_cannot_be_compared(change, reason):
    first, other = report(), report()
    first["evaluation"]["baseline"] = {"accuracy": 0.2}
    other["evaluation"]["baseline"] = {"accuracy": 0.2}
    change(other)
    found = incomparable([compared("a", read(first)), compared("b", read(other))])
    assert list(found) == ["b"]
    assert "it has other test records" in found["b"]
    assert reason in found["b"]


def test_runs_that_differ_in_training_alone_can_be_compared():
    assert incomparable([run("a"), run("b", learning_rate=1.0), run("c", private=False)]) == {}


def test_the_table_rounds_to_what_is_worse():
    text = shown([run("first", accuracy=0.98769, epsilon=1.111), run("plain", private=False)])
    assert "98.76 %" in text
    assert "97.76 to 99.27 %" in text
    assert "1.00 (simulated)" in text
    assert "no privacy" in text
    assert "104,040" in text


def test_rows_are_flat_and_csv_has_them(tmp_path):
    runs = [run("a, b", accuracy=0.99), run("c", learning_rate=1.0, private=False)]
    write_csv(tmp_path / "runs.csv", runs)
    with (tmp_path / "runs.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["run"] for row in found] == ["a, b", "c"]
    assert [row["training.learning_rate"] for row in found] == ["0.5", "1.0"]
    assert (found[0]["value"], found[1]["epsilon"]) == ("0.99", "")
    assert json.loads(json.dumps(rows(runs)))[0]["lower"] == pytest.approx(0.98)


def test_the_picture_has_a_panel_for_each_quantity_that_differs(tmp_path):
    runs = [run("one", epsilon=1.0), run("two", epsilon=8.0, rounds=9), run("plain", private=False)]
    write_plot(tmp_path / "runs.svg", runs, series={"one": "private", "two": "private", "plain": "plain"})
    svg = ET.parse(tmp_path / "runs.svg").getroot()
    words = [element.text for element in svg.iter() if element.tag.endswith("text")]
    assert {"epsilon (smaller is stronger)", "rounds", "private", "plain"} <= set(words)
    assert "bytes of a client's update" not in words
    write_plot(tmp_path / "runs.png", runs[:1])
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        write_plot(tmp_path / "runs.pdf", [run("a")])


def test_another_metric_can_be_compared_where_it_is_measured():
    found = compared("a", read(report()), metric="loss")
    assert (found.metric.name, found.interval, found.best) == ("loss", None, None)
    with pytest.raises(UsageError, match="does not measure auroc; it measures: accuracy, precision"):
        compared("a", read(report()), metric="auroc")
    assert "measures loss" in incomparable([run("b"), found])["a"]


def test_runs_are_read_from_folders_and_files_and_called_by_their_folders(tmp_path):
    for folder in ("x/run", "y/run", "z"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "report.json").write_text(json.dumps(report()))
    found = read_runs([tmp_path / "x/run", tmp_path / "y/run/report.json", tmp_path / "z"])
    assert [each.label for each in found] == [str(tmp_path / "x/run"), str(tmp_path / "y/run/report.json"), "z"]
    with pytest.raises(ReportError, match="cannot read"):
        read_runs([tmp_path / "none"])


def test_names_of_a_report_of_anybody_only_show_themselves():
    first, other = report(), report()
    for plain, value in ((first, 0.1), (other, 0.2)):
        plain["evaluation"]["baseline"] = {"\x1b[2J": value}
    (reason,) = incomparable([compared("a", read(first)), compared("b", read(other))]).values()
    assert reason.isprintable()
    assert "the baseline of" in reason
