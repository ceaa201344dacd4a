"""Whole runs in this process, each audited when it has ended."""

from safetensors.numpy import load_file

from fedtrain.audit import audit
from fedtrain.report import Report
from fedtrain.serverapp.run import run_experiment
from fedtrain.trust import Roster
from tests.fakes import federation, private_experiment


def runner(cache, parent, **defaults):
    """Return a function that runs an experiment in a folder, and returns its report after an audit, and its model."""

    def run(folder="run", kind=private_experiment, grid=None, on_event=None, **settings):
        fixed = {
            "output__directory": str(parent / folder),
            "output__screen": "none",
            "task__model": "linear",
            "federation__deadline": 10.0,
        }
        experiment = kind(cache, **(fixed | defaults | settings))
        grid = federation(experiment) if grid is None else grid(experiment)
        run_experiment(grid, experiment, on_event=on_event)
        return finished(parent / folder)

    return run


def finished(folder):
    report = Report.model_validate_json((folder / "report.json").read_text())
    if report.privacy.mode != "none":
        verdict = audit(report, roster=Roster.read(folder / "roster.json"))
        assert [f"{check.name}: {check.detail}" for check in verdict.checks if check.status == "fails"] == []
    return report, load_file(folder / "model-final.safetensors")
