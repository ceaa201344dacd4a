"""Language models through the command line: every mode, both models, the report with what they write, and refusals."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from fedtrain import audit_report, load_run
from fedtrain.report import Report
from tests.integration.modes import CLIENT, FILE, FITTED, RECORD, SHARED, SUMMED, WORDS

BYTES = ["task.encoder=bytes"]
RUNS = {
    "none-summed-bytes-lstm": [*BYTES, *SUMMED],
    "none-words-causal": [*WORDS, "task.model=causal"],
    "record-bytes-causal": [*BYTES, *RECORD, "task.model=causal"],
    "record-shared-file-lstm": [*FILE, *RECORD, *SHARED],
    "client-bytes-causal": [*BYTES, *CLIENT, "task.model=causal"],
    "client-shared-summed-bytes-lstm": [*BYTES, *CLIENT, *SHARED],
}
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "model-a-language.md"
TEXTS = ["Speak, speak.", "Ay, sir; well, well.", "", "O", "é", "Speak again, and again, and again."]


@pytest.fixture
def run(cli, tmp_path):
    """Give a function that runs an experiment on a few texts, with settings."""
    (tmp_path / "experiment.toml").write_text(
        'name = "speeches"\n'
        "[federation]\nclients = 3\ncohort = 3\nrounds = 1\n"
        '[data]\nsource = "parquet"\npath = "texts.parquet"\ntest_path = "test.parquet"\n'
        'target = "text"\ntext_column = "text"\nmax_bytes = 100\n'
        '[data.partition]\nkind = "natural"\ncolumn = "speaker"\n'
        '[task]\nname = "language"\nmax_tokens = 16\n'
        "[training]\nbatch_size = 4\nlocal_steps = 1\n"
    )
    for name, repeated in (("texts", 3), ("test", 1)):
        speakers = [f"role {number % 3}" for number in range(6 * repeated)]
        table = pa.table({"text": TEXTS * repeated, "speaker": speakers, "year": list(range(6 * repeated))})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=260, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator(TEXTS, trainer)
    library.save(str(tmp_path / "own.json"))

    def simulate(*settings, out="run"):
        options = [part for setting in settings for part in ("--set", setting)]
        return cli.run("-c", "experiment.toml", *options, "--workers", 1, "--json", out=tmp_path / out, cwd=tmp_path)

    return simulate


# One of each privacy mode is enough between two changes.
@pytest.mark.parametrize(
    "mode",
    [mode if "summed" in mode or "shared" in mode else pytest.param(mode, marks=pytest.mark.slow) for mode in RUNS],
)
def test_languages_are_modelled_in_every_mode_and_the_report_has_what_the_model_writes(mode, run):
    done = run(*RUNS[mode])
    assert done.status == 0, done.stdout + done.stderr
    report = Report.model_validate_json((done.out / "report.json").read_bytes())
    final, baseline = report.evaluation.final, report.evaluation.baseline
    assert (report.data.target, report.data.classes, report.data.histogram) == ("text", (), None)
    assert report.evaluation.metrics[0].name == "perplexity"
    assert final.own["bits_per_token"] > 0
    assert set(baseline) == {"perplexity", "bits_per_token", "token_accuracy"}
    if "bytes" in mode:
        # Three texts fill the room; the others have an end each, and é has two bytes.
        assert final.own["tokens"] == 13 + 16 + 0 + 1 + 2 + 16 + 4
    assert report.model.gradients == ("book-keeping" if "record" in mode else None)
    if report.proof is not None:
        assert audit_report(done.out).outcome != "refuted"
    page = (done.out / "report.html").read_text()
    assert ("What the model writes" in page) == (report.sample is not None) == ("words" not in mode)
    if report.sample is not None:
        assert (len(report.sample.texts), report.sample.tokens) == (5, 16)
        assert ("may be the words of a record" in page) == ("none" in mode)
    inputs = json.loads((done.out / "inputs.json").read_text())
    assert (inputs["target"], inputs["names"]) == ("text", [])


def test_the_same_run_writes_the_same_predicts_no_target_and_is_published(run, cli, tmp_path):
    first, second = run(*BYTES), run(*BYTES, out="again")
    samples = [Report.model_validate_json((done.out / "report.json").read_bytes()).sample for done in (first, second)]
    assert samples[0] == samples[1]
    refused = cli.here("predict", first.out, "--data", first.out.parent / "test.parquet", cwd=tmp_path)
    assert refused.status == 2
    assert "says nothing of a text as a whole" in refused.stderr
    exported = cli.here("export", first.out, "--no-onnx", "--out", tmp_path / "card", cwd=tmp_path)
    assert exported.status == 0, exported.stderr
    card = (tmp_path / "card" / "README.md").read_text()
    assert "Predicts each token of a text from those before it." in card
    assert "pipeline_tag: text-generation" in card


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ([], "task.encoder is not set; set it to"),
        (["task.encoder=log-mel"], "takes sounds"),
        ([*BYTES, "task.name=text"], 'set task.name = "language"'),
        ([*BYTES, "task.model=bag"], "models that fit it"),
        ([*BYTES, "data.target=class", "data.label_column=year"], 'set task.name = "text"'),
        ([*BYTES, "data.text_column="], "text_column is not set"),
        ([*BYTES, "data.text_column=year"], "a text column holds strings"),
        ([*BYTES, "data.label_column=year"], 'label_column is not for target = "text"'),
        ([*BYTES, "data.classes=a,b"], 'classes and label_columns are not for target = "text"'),
        ([*BYTES, "data.partition.kind=dirichlet", "data.partition.column="], "splits by classes"),
        ([*BYTES, "data.source=npz"], "reads none; allowed"),
        ([*BYTES, *RECORD, *FITTED], "fits classes, labels or numbers"),
        ([*BYTES, "task.augment=true"], "augment = true with an encoder"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_trained(settings, problem, run, tmp_path):
    done = run(*settings)
    assert done.status == 2
    assert problem in json.loads(done.stdout)["error"]
    assert not (tmp_path / "run" / "clients").exists()


def test_the_example_of_the_page_trains(cli, tmp_path):
    example = re.search(r"^```toml\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "plays.toml").write_text(example[1])
    for name, repeated in (("train", 4), ("test", 1)):
        speakers = [f"role {number % 20}" for number in range(6 * repeated)]
        pq.write_table(pa.table({"text": TEXTS * repeated, "speaker": speakers}), tmp_path / f"{name}.parquet")
    settings = ("--set", "federation.rounds=1", "--workers", 1)
    done = cli.run("-c", "plays.toml", *settings, out=tmp_path / "run", cwd=tmp_path)
    assert done.status == 0, done.stdout + done.stderr
    assert load_run(done.out).report.evaluation.final.records == 6
