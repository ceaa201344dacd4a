"""What is printed of a run that is made again: the metric that its report has, its guarantee, and the table of all."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from fedtrain.audit import read_report
from fedtrain.report import Evaluation, Metric

ROOT = Path(__file__).parents[3]


def test_a_run_is_told_by_the_metric_of_its_report(script):
    reproduce = script("reproduce")
    vector = json.loads((ROOT / "tests" / "vectors" / "reports" / "record-secure-sealed-summed.json").read_text())
    text = vector["report"]
    report = read_report((text if isinstance(text, str) else json.dumps(text)).encode())
    assert reproduce.reached(report) == f"accuracy {report.evaluation.final.accuracy}"
    assert reproduce.guarantee(report).startswith(("epsilon ", "no privacy"))
    found = {
        "metrics": (Metric(name="perplexity", direction="lower", format="number"),),
        "final": Evaluation(round=1, perplexity=5.5, accuracy=0.5),
    }
    language = report.model_copy(update={"evaluation": report.evaluation.model_copy(update=found)})
    assert reproduce.reached(language) == "perplexity 5.5"
    for nothing in ({"metrics": ()}, {"final": None}):
        empty = language.model_copy(update={"evaluation": language.evaluation.model_copy(update=nothing)})
        assert reproduce.reached(empty) == "no metric"


def test_the_table_of_workloads_is_that_of_the_reports(script):
    frontier, workloads = script("frontier"), script("workloads")
    kept = [(point, report) for point in workloads.chosen() if (report := frontier.report_of(point))]
    assert len(kept) > 10
    assert workloads.as_markdown(kept) in (ROOT / "README.md").read_text()


def test_a_table_without_its_marks_in_the_readme_is_an_error(script, tmp_path, monkeypatch):
    frontier = script("frontier")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- workloads:begin -->\nold\n<!-- workloads:end -->\nrest\n")
    monkeypatch.setattr(frontier, "README", readme)
    frontier.write_into_readme("workloads", "new\n")
    assert readme.read_text() == "<!-- workloads:begin -->\nnew\n<!-- workloads:end -->\nrest\n"
    with pytest.raises(SystemExit, match="no marks for the table of the frontier"):
        frontier.write_into_readme("frontier", "new\n")
    assert "new" in readme.read_text()


def test_a_table_of_what_is_kept_runs_nothing_and_says_what_is_missing(script, tmp_path, monkeypatch, capsys):
    reproduce, frontier, workloads = script("reproduce"), script("frontier"), script("workloads")
    there, *missing = (point for point in workloads.chosen() if point.workload.name == "ag_news")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workloads, "chosen", lambda: (there, *missing))
    monkeypatch.setattr(frontier, "RESULTS", tmp_path)
    monkeypatch.setattr(frontier, "README", tmp_path / "README.md")
    monkeypatch.setattr(frontier, "simulate", lambda *_arguments, **_options: pytest.fail("it was run"))
    shutil.copy(ROOT / "simulations" / "results" / "frontier" / there.file, tmp_path / there.file)
    frontier.README.write_text("<!-- workloads:begin -->\n<!-- workloads:end -->\n")
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--table", "--kept"])
    reproduce.main()
    rows = frontier.README.read_text().splitlines()[3:-1]
    assert len(rows) == 1
    assert rows[0].startswith(f"| {there.workload.title} | {there.way.what} |")
    assert ", ".join(point.name for point in missing) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "name configurations, or give --table"),
        (["demo", "--table"], "name configurations, or give --table"),
        (["demo", "--kept"], "--kept is of --table"),
        (["no-such-run"], "no configuration 'no-such-run'; there are adult, "),
    ],
)
def test_options_that_do_not_fit_are_an_error(script, monkeypatch, capsys, options, problem):
    reproduce = script("reproduce")
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *options])
    with pytest.raises(SystemExit, match="2"):
        reproduce.main()
    assert problem in capsys.readouterr().err
