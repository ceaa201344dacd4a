"""Public encoders through the command line: every mode, one's own, the report, the audit, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedtrain import audit_report, load_run
from fedtrain.config.sections import ENCODERS
from fedtrain.report import Report
from tests.integration.modes import CLIENT, RECORD, SHARED, SUMMED

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "use-a-public-encoder.md"
EXAMPLE = ROOT / "docs" / "examples" / "own_encoder.py"
TINY = [
    "data.source=digits",
    "data.max_records=64",
    "data.test_fraction=0.02",
    "federation.clients=4",
    "federation.cohort=4",
    "federation.rounds=1",
    "training.batch_size=8",
    "training.local_steps=1",
    "training.learning_rate=8.0",
]
SCATTERING = ["task.encoder=scattering"]
OWN = ["task.encoder=own_encoder:build", "task.encoder_origin=random numbers with a seed"]
RUNS = {
    "none": [*SCATTERING, "privacy.mode=none"],
    "none-summed": [*SCATTERING, "privacy.mode=none", *SUMMED],
    "record": [*SCATTERING, *RECORD],
    "record-own-summed": [*OWN, *RECORD, *SUMMED],
    "record-shared-summed": [*SCATTERING, *RECORD, *SHARED],
    "client-summed": [*SCATTERING, *CLIENT, *SUMMED],
    "client-shared-summed": [*SCATTERING, *CLIENT, *SHARED],
}
QUICK = {"none", "record-own-summed"}  # the others in CI alone: each runs a whole command, for seconds


@pytest.fixture
def run(cli, tmp_path):
    """Give a function that runs an experiment with settings, where the example of the page lies."""
    (tmp_path / "experiment.toml").write_text('name = "encoded"\n')
    (tmp_path / "own_encoder.py").write_text(EXAMPLE.read_text())

    def simulate(*settings, out="run"):
        options = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
        arguments = ("-c", "experiment.toml", *options, "--workers", 1, "--json")
        return cli.run(*arguments, out=tmp_path / out, cwd=tmp_path)

    return simulate


def _with_another_origin(run):
    report = json.loads((run / "report.json").read_text())
    gaps = report["privacy"]["not_covered"]
    report["privacy"]["not_covered"] = [gap.replace("random numbers with a seed", "ImageNet") for gap in gaps]
    file = run.parent / "forged.json"
    file.write_text(json.dumps(report))
    return file


@pytest.mark.parametrize(
    "mode", [mode if mode in QUICK else pytest.param(mode, marks=pytest.mark.slow) for mode in RUNS]
)
def test_features_are_trained_on_in_every_mode_and_the_report_says_whose_they_are(mode, run):
    done = run(*RUNS[mode])
    assert done.status == 0, done.stdout + done.stderr
    report = Report.model_validate_json((done.out / "report.json").read_bytes())
    encoder = report.model.encoder
    own = "own" in mode
    assert encoder.shape == ((64, 2, 2) if own else (81, 2, 2))
    assert encoder.name == ("own_encoder:build" if own else "scattering")
    assert encoder.origin == ("random numbers with a seed" if own else encoder.origin)
    assert report.data.shape == (1, 8, 8)
    assert report.model.parameters == (np.prod(encoder.shape) + 1) * 10
    gaps = [gap for gap in report.privacy.not_covered if encoder.name in gap]
    assert len(gaps) == (mode.split("-")[0] != "none")
    assert not own or gaps[0].endswith("random numbers with a seed (declared, and not checked).")
    if report.proof is not None:
        assert audit_report(done.out).outcome != "refuted"
    if own:
        assert audit_report(_with_another_origin(done.out)).outcome == "refuted"
    weights = load_run(done.out).model().state_dict()
    assert {name: tuple(value.shape) for name, value in weights.items()} == {
        "1.weight": (10, np.prod(encoder.shape)),
        "1.bias": (10,),
    }


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["task.encoder=own_encoder:build"], "has no declared origin"),
        ([*OWN, f"task.encoder_digest={'0' * 64}"], "another encoder than the experiment declares"),
        ([*SCATTERING, "task.model=cnn-cifar"], "models that fit it"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_trained(settings, problem, run, tmp_path):
    done = run(*settings)
    assert done.status == 2
    assert problem in json.loads(done.stdout)["error"]
    assert not (tmp_path / "run" / "clients").exists()


def test_a_site_decides_which_encoders_compute_on_its_records(run, tmp_path):
    sites = tmp_path / "sites"
    sites.mkdir()
    site = '[budget]\nepsilon = 9.0\ndelta = 0.01\n[policy]\ntasks = ["vision"]\n'
    where = f"federation.sites={sites}"
    (sites / "site.toml").write_text(site)
    assert run(*SCATTERING, *RECORD, where, out="first").status == 0
    refused = run(*OWN, *RECORD, where, out="second")
    assert refused.status == 1
    assert f"its site file allows the encoders {', '.join(ENCODERS)}; nothing was trained" in refused.stdout
    (sites / "site.toml").write_text(site + 'encoders = ["own_encoder:build"]\n')
    # The ledger is of the records, whatever is computed of them: two such runs are beyond the budget.
    spent = run(*OWN, *RECORD, where, out="third")
    assert spent.status == 3
    assert "0 usable results of 4 clients" in spent.stdout
    assert "budget" in spent.stdout


def test_a_run_is_not_resumed_with_another_encoder(run, tmp_path):
    assert run(*OWN, "privacy.mode=none", "federation.rounds=2").status == 0
    file = tmp_path / "own_encoder.py"
    file.write_text(file.read_text().replace("manual_seed(0)", "manual_seed(1)"))
    again = run(*OWN, "privacy.mode=none", "federation.rounds=2", "output.resume=true")
    assert again.status == 2
    assert "of its model, the encoder, or public weights" in again.stdout


def test_the_page_shows_the_example():
    assert f"```python\n{EXAMPLE.read_text()}```\n" in PAGE.read_text()
