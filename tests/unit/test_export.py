"""Models in public formats, with a card, of runs that were really trained."""

import json
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from fedtrain import load_run
from fedtrain.config.sections import TaskConfig
from fedtrain.data.types import (
    ClassTarget,
    Columns,
    DataInfo,
    Image,
    LabelsTarget,
    Sound,
    TextTarget,
    Tokens,
)
from fedtrain.errors import ConfigError, ReportError, StorageError, TaskError, UsageError
from fedtrain.export import _network, export
from fedtrain.report import Group, Groups, Interval
from fedtrain.report.model_card import _span, escaped
from fedtrain.serverapp.run import run_experiment
from fedtrain.tasks import Task, build_model, build_task
from fedtrain.tasks.supervised import fitting
from tests.fakes import digits_experiment, federation, private_experiment


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    told = {"report__operator": "a | ward # of *one*", "report__purpose": "<script>alert(1)</script>"}
    for name, kind, more in (("plain", digits_experiment, told), ("private", private_experiment, {})):
        experiment = kind(
            folder / "cache",
            federation__rounds=1,
            task__model="linear",
            output__directory=str(folder / name),
            output__screen="none",
            **more,
        )
        run_experiment(federation(experiment), experiment)
    return folder


def card(folder):
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_folder_has_the_weights_of_the_run_and_a_card_with_the_numbers_of_its_report(runs, tmp_path):
    run = load_run(runs / "plain")
    found = export(run, tmp_path / "out", onnx=False)
    assert sorted(found.files) == sorted(path.name for path in found.folder.iterdir())
    assert found.files == ("model.safetensors", "inputs.json", "README.md")
    assert found.note == ""
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        runs / "plain/model-final.safetensors"
    ).read_bytes()
    assert (tmp_path / "out" / "inputs.json").read_bytes() == (runs / "plain/inputs.json").read_bytes()
    front, body = card(tmp_path / "out")
    final = run.report.evaluation.final
    assert front["pipeline_tag"] == "image-classification"
    assert front["tags"] == ["federated-learning", "fedtrain"]
    (result,) = front["model-index"][0]["results"]
    assert {each["type"]: each["value"] for each in result["metrics"]}["accuracy"] == final.accuracy
    interval = run.report.evaluation.intervals.final["accuracy"]
    assert f"{100 * interval.lower:.0f}" in body
    assert "| Accuracy |" in body
    assert sha256((runs / "plain/report.json").read_bytes()).hexdigest() in body
    assert "model.onnx" not in body


def test_what_an_operator_says_cannot_pass_for_words_of_the_card(runs, tmp_path):
    export(load_run(runs / "plain"), tmp_path / "out", onnx=False)
    _, body = card(tmp_path / "out")
    assert "| operator | “a \\| ward \\# of \\*one\\*” |" in body
    assert "| purpose | “&lt;script&gt;alert(1)&lt;/script&gt;” |" in body


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a b"),
        ("a\\b", "a\\\\b"),
        ("`x`", "\\`x\\`"),
        ("[a](b)", "\\[a\\](b)"),
        ("$a$", "\\$a\\$"),
        ("a\u202eb", "a\ufffdb"),
    ],
)
def test_markup_is_shown_as_it_is(text, shown):
    assert escaped(text) == shown


def test_the_metadata_has_numbers_and_names_as_they_are(runs, tmp_path):
    run = load_run(runs / "plain")
    evaluation = run.report.evaluation
    final = evaluation.final.model_copy(update={"loss": 5e-05, "accuracy": 1.0})
    report = run.report.model_copy(
        update={
            "name": '\U0001f642 "é" \\: {a} # b\u2028- c: 1',
            "evaluation": evaluation.model_copy(update={"final": final}),
        }
    )
    export(replace(run, report=report), tmp_path / "out", onnx=False)
    front, _ = card(tmp_path / "out")
    (model,) = front["model-index"]
    assert model["name"] == '\U0001f642 "é" \\: {a} # b\ufffd- c: 1'
    values = {each["type"]: each["value"] for each in model["results"][0]["metrics"]}
    assert (values["loss"], values["accuracy"]) == (5e-05, 1.0)
    assert all(isinstance(value, float) for value in values.values())


@pytest.mark.parametrize(
    ("text", "span"),
    [("mini_lm <1>", "`mini_lm <1>`"), ("a`b", "``a`b``"), ("``", "``` `` ```"), ("a\nb", "`a b`")],
)
def test_code_shows_itself_and_cannot_end_its_span(text, span):
    assert _span(text) == span


def test_a_simulation_is_said_to_protect_nobody_and_has_been_audited(runs, tmp_path):
    run = load_run(runs / "private")
    export(run, tmp_path / "out", onnx=False)
    front, body = card(tmp_path / "out")
    assert "differential-privacy" not in front["tags"]
    assert "**Simulation: protects nobody.**" in body
    assert escaped(run.report.privacy.statement) in body
    assert "Audit without keys from elsewhere" in body
    for each in run.report.privacy.not_covered:
        assert f"- {escaped(each)}" in body


def test_the_best_weights_are_said_to_be_chosen_on_the_test_records(runs, tmp_path):
    run = load_run(runs / "plain")
    export(run, tmp_path / "out", which="best", onnx=False)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (runs / "plain/model-best.safetensors").read_bytes()
    front, body = card(tmp_path / "out")
    metrics = {each["type"]: each["value"] for each in front["model-index"][0]["results"][0]["metrics"]}
    assert metrics["accuracy"] == run.report.evaluation.best.reached
    assert "chosen on the test records" in body


@pytest.mark.parametrize(("many", "shown"), [(2, 2), (80, 20)])
def test_a_card_has_the_results_of_groups_and_of_many_the_worst(runs, tmp_path, many, shown):
    run = load_run(runs / "plain")
    evaluation = run.report.evaluation
    sites = tuple(
        Group(
            name=f"site {number:02} | <b>",
            records=20,
            values={"accuracy": number / 100},
            intervals={"accuracy": Interval(lower=0.0, upper=0.9)},
        )
        for number in range(many)
    )
    groups = Groups(column="place `of` work", smallest=20, groups=sites)
    report = run.report.model_copy(update={"evaluation": evaluation.model_copy(update={"groups": groups})})
    export(replace(run, report=report), tmp_path / "out", which="best", onnx=False)
    _, body = card(tmp_path / "out")
    results = body.partition("## Results")[2].partition("## Privacy")[0]
    assert "### By place \\`of\\` work" in results
    assert results.count("The table is of the last round, and the weights are those of the best.") == 1
    rows = [line for line in results.splitlines() if line.startswith("| site ")]
    assert len(rows) == shown
    assert rows[1].startswith("| site 01 \\| &lt;b&gt; | 20 | 1.00 % | 0.00 to 90.00 % |")
    assert "Of many groups some differ by chance alone" in results
    assert ("The 20 groups of 80" in results) == (many == 80)


def forged(runs, tmp_path, change):
    copy = tmp_path / "forged"
    copy.mkdir()
    for file in ("report.json", "model-final.safetensors"):
        (copy / file).write_bytes((runs / "private" / file).read_bytes())
    report = json.loads((copy / "report.json").read_text())
    change(report)
    (copy / "report.json").write_text(json.dumps(report))
    return copy


def test_a_report_that_an_audit_refutes_has_no_card(runs, tmp_path):
    copy = forged(runs, tmp_path, lambda report: report.update(name="another"))
    with pytest.raises(ReportError, match="is refuted by an audit"):
        export(load_run(copy), tmp_path / "out", onnx=False)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_those_of_the_report_are_not_published(runs, tmp_path):
    copy = forged(runs, tmp_path, lambda report: None)
    data = bytearray((copy / "model-final.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model-final.safetensors").write_bytes(bytes(data))
    with pytest.raises((StorageError, ReportError)):
        export(load_run(copy), tmp_path / "out", onnx=False)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(runs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        export(load_run(runs / "plain"), tmp_path / "out", onnx=False)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        export(load_run(runs / "plain"), tmp_path / "file", onnx=False)


def test_a_run_of_statistics_has_no_model(runs, tmp_path):
    run = load_run(runs / "plain")
    config = {**run.report.config, "task.name": "statistics"}
    of_statistics = type(run)(path=run.path, report=run.report.model_copy(update={"config": config}))
    with pytest.raises((UsageError, TaskError, ConfigError)):
        export(of_statistics, tmp_path / "out", onnx=False)


def test_missing_packages_are_told_where_a_graph_is_wanted_and_else_noted(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"fedtrain\[export\]"):
        export(load_run(runs / "plain"), tmp_path / "out", onnx=True)
    found = export(load_run(runs / "plain"), tmp_path / "out")
    assert "fedtrain[export]" in found.note
    assert "model.onnx" not in found.files


@pytest.mark.slow  # the exporter of torch takes seconds
def test_the_graph_takes_stored_records_and_returns_what_the_model_returns(runs, tmp_path):
    import onnxruntime

    run = load_run(runs / "plain")
    found = export(run, tmp_path / "out", onnx=True)
    assert "model.onnx" in found.files
    records = np.random.default_rng(1).integers(0, 256, size=(7, 1, 8, 8)).astype(np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"records": records})
    with torch.no_grad():
        expected = run.model()(torch.from_numpy(records).float() / 127.5 - 1).numpy()
    assert outputs == pytest.approx(expected, abs=1e-5)
    assert load_file(tmp_path / "out/model.safetensors").keys() == dict(run.model().state_dict()).keys()
    # The card's own program.
    _, body = card(tmp_path / "out")
    program = body.split("```python\n")[2].split("```")[0]
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "out", check=True, timeout=120)


CLASSES = ClassTarget(names=("a", "b", "c"))
INFOS = {
    "image": (DataInfo(features=Image(shape=(3, 18, 18)), target=CLASSES), "cnn-small", "records"),
    "labels": (DataInfo(features=Columns(shape=(4,)), target=LabelsTarget(names=("a", "b"))), None, "records"),
    "transformer": (DataInfo(features=Tokens(shape=(6,), vocabulary=9), target=CLASSES), "transformer", "records"),
    "lstm": (DataInfo(features=Tokens(shape=(6,), vocabulary=9), target=TextTarget()), "lstm", "records"),
    "causal": (DataInfo(features=Tokens(shape=(6,), vocabulary=9), target=TextTarget()), "causal", "records"),
    # The preparation goes through records one by one, and is traced for so many.
    "sound": (DataInfo(features=Sound(shape=(4000,), rate=8000), target=CLASSES), None, "inputs"),
}


@pytest.mark.slow  # likewise
@pytest.mark.parametrize("name", INFOS)
def test_a_model_of_every_kind_has_a_graph(name):
    info, model, takes = INFOS[name]
    task = build_task(TaskConfig(name=fitting(info), model=model), info)
    network, graph, note = _network(task, build_model(task).eval(), info, must=True)
    assert network.takes == takes
    assert graph
    assert bool(note) == (takes == "inputs")


class Sorted(Task):
    """A task whose model no graph can hold."""

    def model(self):
        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.dense = torch.nn.Linear(4, 2)

            def forward(self, inputs):
                return self.dense(inputs if float(inputs.sum()) > 0 else -inputs)

        return Model()

    def collate(self, records, generator):
        return {"inputs": records.features, "targets": records.targets}

    def losses(self, outputs, batch):
        return torch.nn.functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        raise NotImplementedError


@pytest.mark.slow  # likewise
def test_a_model_that_no_graph_holds_is_told():
    info = DataInfo(features=Columns(shape=(4,)), target=ClassTarget(names=("a", "b")))
    task = Sorted()
    with pytest.raises(TaskError, match="cannot be written as an ONNX graph"):
        _network(task, task.model().eval(), info, must=True)
    network, graph, note = _network(task, task.model().eval(), info, must=False)
    assert (network, graph) == (None, b"")
    assert note.startswith("no model.onnx: ")
