"""A table in CSV files through the command line: in every mode, and what the report says of it."""

import pytest

from fedtrain import audit_report
from fedtrain.data.schema import read_schema
from fedtrain.report import Report
from tests.integration.conftest import ROOT
from tests.people import write

SCHEMA = ROOT / "simulations" / "schemas" / "adult.toml"
TINY = {
    "data.source": "csv",
    "data.schema_file": SCHEMA,
    "task.name": "tabular",
    "task.model": "linear",
    "federation.clients": 4,
    "federation.cohort": 4,
    "federation.rounds": 2,
    "training.batch_size": 100,
    "training.local_steps": 1,
    "training.learning_rate": 2.0,
}
SUMMED = {"transport.sealed": "true", "transport.secagg.enabled": "true"}
RECORD = {"privacy.mode": "record", "privacy.sampling_rate": 0.5, "privacy.epsilon": 20.0, "privacy.delta": 1e-3}
SHARED = {**RECORD, **SUMMED, "privacy.trust": "distributed", "privacy.colluders": 0}
SUMS = {"training.solver": "least-squares", "federation.rounds": 1, "task.model": "", "training.feature_norm": 3.75}
CLIENT = {"privacy.mode": "client", "privacy.cohorts": "capped", "privacy.epsilon": 200.0, "privacy.delta": 0.01}
RUNS = {
    "none": {},
    "none-summed": SUMMED,
    "record-summed": {**RECORD, **SUMMED},
    "record-shared": SHARED,
    "least-squares-shared": {**SHARED, **SUMS, "privacy.sampling_rate": 1.0},
    "client-summed": {**CLIENT, **SUMMED},
    "client-shared-summed": {**CLIENT, **SUMMED, "privacy.trust": "distributed", "privacy.colluders": 0},
}


@pytest.fixture
def run(cli, tmp_path):
    train, test = write(tmp_path / "adult", train=800, test=300)
    (tmp_path / "experiment.toml").write_text('name = "people"\n')

    def simulate(settings):
        pairs = TINY | {"data.path": train, "data.test_path": test} | settings
        options = [part for name, value in pairs.items() for part in ("--set", f"{name}={value}")]
        arguments = ("-c", "experiment.toml", *options, "--workers", 1, "--json")
        return cli.run(*arguments, out=tmp_path / "run", cwd=tmp_path)

    return simulate


@pytest.mark.parametrize(
    "mode", [mode if mode == "none" else pytest.param(mode, marks=pytest.mark.slow) for mode in RUNS]
)
def test_a_table_is_trained_on_in_every_mode(run, mode):
    done = run(RUNS[mode])
    assert done.status == 0, done.stdout + done.stderr
    report = Report.model_validate_json((done.out / "report.json").read_bytes())
    schema = read_schema(SCHEMA)
    assert report.data.schema_digest == schema.digest
    assert report.data.features == schema.features
    assert report.data.classes == ("<=50K", ">50K")
    assert report.data.test_records == 300
    final = report.evaluation.final
    assert final.own["auroc"] > (0.8 if mode in {"none-summed", "least-squares-shared"} else 0.55)
    assert len(final.thresholds) == 11
    assert schema.digest in (done.out / "report.html").read_text()
    if report.proof is not None:
        assert audit_report(done.out).outcome != "refuted"


def test_a_record_that_does_not_fit_is_refused_before_anything_runs(run, tmp_path):
    train, _ = write(tmp_path / "bad", train=20, test=10)
    lines = train.read_text().splitlines()
    lines[4] = lines[4].replace(", ", ", Doctor of, ", 1)
    train.write_text("\n".join(lines))
    done = run({"data.path": train})
    assert done.status == 2
    assert f"{train}, line 5: 16 values, and 15 are expected" in done.stdout
    assert not (tmp_path / "run").exists()
