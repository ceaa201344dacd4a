"""What is printed of a run that is made again: the metric that its report has, and its guarantee."""

import json
import runpy
from pathlib import Path

from fedtrain.audit import read_report
from fedtrain.report import Evaluation, Metric

ROOT = Path(__file__).parents[3]


def test_a_run_is_told_by_the_metric_of_its_report():
    script = runpy.run_path(str(ROOT / "simulations" / "reproduce.py"))
    vector = json.loads((ROOT / "tests" / "vectors" / "reports" / "record-secure-sealed-summed.json").read_text())
    text = vector["report"]
    report = read_report((text if isinstance(text, str) else json.dumps(text)).encode())
    assert script["reached"](report) == f"accuracy {report.evaluation.final.accuracy}"
    assert script["guarantee"](report).startswith(("epsilon ", "no privacy"))
    found = {
        "metrics": (Metric(name="perplexity", direction="lower", format="number"),),
        "final": Evaluation(round=1, perplexity=5.5, accuracy=0.5),
    }
    language = report.model_copy(update={"evaluation": report.evaluation.model_copy(update=found)})
    assert script["reached"](language) == "perplexity 5.5"
    for nothing in ({"metrics": ()}, {"final": None}):
        empty = language.model_copy(update={"evaluation": language.evaluation.model_copy(update=nothing)})
        assert script["reached"](empty) == "no metric"
