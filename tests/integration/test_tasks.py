"""Numbers and sets of labels, through the command line, in every privacy mode and through secure aggregation."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedtrain.report import Report
from tests.integration.modes import SUMMED

RECORDS, CLIENTS = 160, 4
MODES = {
    "none": ["privacy.mode=none"],
    "record": ["privacy.mode=record", "privacy.sampling_rate=0.25", "privacy.epsilon=8.0"],
    "client": ["privacy.mode=client", "privacy.cohorts=capped", "privacy.epsilon=50.0", "privacy.delta=0.01"],
}
TASKS = {
    "regression": ("mse", ["data.target=number", "data.label_column=y"]),
    "multilabel": ("auroc", ["data.target=labels", "data.label_column=tags"]),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Write records whose number and labels follow from their features."""
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((2, RECORDS))
    tags = [[name for name, value in (("hot", x), ("wet", y)) if value > 0] for x, y in zip(a, b, strict=True)]
    file = tmp_path_factory.mktemp("data") / "records.parquet"
    pq.write_table(pa.table({"a": a, "b": b, "y": 2 * a - b, "tags": tags}), file)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", [[], SUMMED], ids=["clear", "summed"])
@pytest.mark.parametrize("task", TASKS)
def test_a_task_trains_in_every_mode(task, mode, transport, table, cli, tmp_path):
    metric, target = TASKS[task]
    fields = [
        f"task.name={task}",
        "data.source=parquet",
        f"data.path={table}",
        "data.test_fraction=0.25",
        "data.feature_columns=a, b",
        *target,
        f"federation.clients={CLIENTS}",
        f"federation.cohort={CLIENTS}",
        "federation.rounds=2",
        "training.batch_size=10",
        "training.local_steps=3",
        *MODES[mode],
        *transport,
    ]
    config, out = tmp_path / "experiment.toml", tmp_path / "run"
    config.write_text(f'name = "{task}"\n')
    done = cli.run(
        "-c", config, *(part for field in fields for part in ("--set", field)), "--workers", 1, "--json", out=out
    )
    assert done.status == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    report = Report.model_validate_json((out / "report.json").read_bytes())
    assert (summary["baseline"], summary["warnings"]) == (report.evaluation.baseline, list(report.warnings))
    assert summary["baseline"]
    first, last = report.evaluation.history[0], report.evaluation.final
    assert report.evaluation.metrics[0].name == metric
    assert summary["metrics"][metric] == last.value(metric)
    assert summary["accuracy"] is None
    assert report.data.target == TASKS[task][1][0].removeprefix("data.target=")
    assert report.data.train_records == RECORDS * 3 // 4
    assert (report.privacy.epsilon is None) == (mode == "none")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line[metric] for line in lines] == [entry.value(metric) for entry in report.evaluation.history]
    if mode == "none":
        assert report.evaluation.best.reached == last.value(metric)
        better = last.value(metric) - first.value(metric)
        assert better < 0 if metric == "mse" else better > 0
