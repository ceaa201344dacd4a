"""Sounds through the command line: features and spectrograms, in every privacy mode and through secure aggregation."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedtrain import audit_report, load_run
from fedtrain.report import Report
from tests.integration.modes import CLIENT, SHARED, SUMMED
from tests.sounds import tone, wav

RECORDS, CLIENTS, PITCHES = 96, 3, (400, 700, 1100)
RECORD = ["privacy.mode=record", "privacy.sampling_rate=1.0", "privacy.epsilon=8.0", "privacy.delta=0.001"]
FEATURES = ["task.encoder=log-mel", "task.model=linear-no-bias", "training.learning_rate=32"]
NETWORK = ["task.augment=true", "training.learning_rate=0.1"]
RUNS = {
    "none": [*NETWORK, "privacy.mode=none", "training.local_steps=4"],
    "none-features-summed": [*FEATURES, "privacy.mode=none", *SUMMED],
    "record-views": [*NETWORK, *RECORD, "training.augmentations=2"],
    "record-features-shared": [*FEATURES, *RECORD, "privacy.trust=distributed", "privacy.colluders=1"],
    "record-features-fitted": [
        *("task.encoder=log-mel", "training.solver=least-squares", "training.feature_norm=1.0"),
        *("federation.rounds=1", "privacy.trust=distributed", "privacy.colluders=0", *RECORD),
    ],
    "client-features-summed": [*FEATURES, *CLIENT, *SUMMED],
    "client-features-shared-summed": [*FEATURES, *CLIENT, *SHARED],
}
QUICK = {"none", "record-features-shared"}  # the others in CI alone: each runs a whole command, for seconds


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Write short tones of three pitches, by three speakers: the pitch is the class, and each has its own gain."""
    draw, rows = np.random.default_rng(0), []
    for number in range(RECORDS):
        label, speaker = number % len(PITCHES), number // len(PITCHES) % CLIENTS
        pitch, seconds = PITCHES[label] * draw.uniform(0.97, 1.03), draw.uniform(0.12, 0.3)
        sound = tone(pitch, seconds, loud=0.2 * (1 + speaker)) + 0.002 * draw.standard_normal(round(seconds * 8000))
        rows.append({"audio": {"bytes": wav(sound), "path": f"{number}.wav"}, "label": label, "speaker": f"s{speaker}"})
    folder = tmp_path_factory.mktemp("sounds")
    pq.write_table(pa.Table.from_pylist(rows[:72]), folder / "train.parquet")
    pq.write_table(pa.Table.from_pylist(rows[72:]), folder / "test.parquet")
    return folder


@pytest.mark.parametrize(
    "mode", [mode if mode in QUICK else pytest.param(mode, marks=pytest.mark.slow) for mode in RUNS]
)
def test_sounds_are_trained_on_in_every_mode(mode, digits, cli, tmp_path):
    fields = [
        "task.name=speech",
        "data.source=parquet",
        f"data.path={digits / 'train.parquet'}",
        f"data.test_path={digits / 'test.parquet'}",
        "data.sample_rate=8000",
        "data.seconds=0.25",
        "data.partition.kind=natural",
        "data.partition.column=speaker",
        f"federation.clients={CLIENTS}",
        f"federation.cohort={CLIENTS}",
        "federation.rounds=3",
        "training.batch_size=24",
        *([] if "training.local_steps=4" in RUNS[mode] else ["training.local_steps=1"]),
        *RUNS[mode],
    ]
    (tmp_path / "experiment.toml").write_text(f'name = "{mode}"\n')
    settings = [part for field in fields for part in ("--set", field)]
    arguments = ("-c", tmp_path / "experiment.toml", *settings, "--set", "output.screen=plain", "--workers", 1)
    done = cli.run(*arguments, out=tmp_path / "run")
    assert done.status == 0, done.stdout + done.stderr
    report = Report.model_validate_json((done.out / "report.json").read_bytes())
    assert (report.data.kind, report.data.shape) == ("audio", (2000,))
    assert report.data.owners == ("s0", "s1", "s2")
    assert (report.model.encoder is None) == ("features" not in mode)
    assert report.model.gradients in {None, "book-keeping"}
    assert "sounds are shorter than 0.25 s and were padded with silence" in done.stdout + done.stderr
    assert load_run(done.out).info.rate == 8000
    numbers = sum(value.numel() for value in load_run(done.out).model().parameters())
    # What least squares fits is smaller than the sums that are sent.
    inputs, classes = 13 * 8, len(PITCHES)
    assert numbers == ((inputs + 1) * classes if "fitted" in mode else report.model.parameters)
    if mode.startswith("none-features"):
        assert report.evaluation.final.accuracy > 0.9
    if report.proof is not None:
        assert audit_report(done.out).outcome != "refuted"
