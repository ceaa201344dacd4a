"""Texts through the command line: every mode, both models, the report, the audit, and what is refused."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from fedtrain import audit_report, load_run
from fedtrain.encoders.tokens import HashedWords
from fedtrain.prediction import predict
from fedtrain.report import Report
from tests.integration.modes import CLIENT, FILE, FITTED, RECORD, SHARED, SUMMED, WORDS

RUNS = {
    "none-summed-words-bag": [*WORDS, *SUMMED],
    "record-file-transformer": [*FILE, *RECORD, "task.model=transformer"],
    "record-shared-file-bag": [*FILE, *RECORD, *SHARED],
    "client-summed-file-transformer": [*FILE, *CLIENT, *SUMMED, "task.model=transformer"],
    "client-shared-summed-file-bag": [*FILE, *CLIENT, *SHARED],
}
QUICK = {
    "none-summed-words-bag",
    "record-file-transformer",
}  # the others in CI alone: each runs a whole command, for seconds
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "classify-texts.md"
TEXTS = ["good film", "bad film", "good, good plot", "a bad, bad end", "", "good é" * 30]


@pytest.fixture
def run(cli, tmp_path):
    """Give a function that runs an experiment on a few texts, with settings."""
    (tmp_path / "experiment.toml").write_text(
        'name = "texts"\n'
        "[federation]\nclients = 3\ncohort = 3\nrounds = 1\n"
        '[data]\nsource = "parquet"\npath = "texts.parquet"\ntest_path = "test.parquet"\n'
        'text_column = "text"\nmax_bytes = 100\n'
        '[task]\nname = "text"\nmax_tokens = 8\n'
        "[training]\nbatch_size = 4\nlocal_steps = 1\n"
    )
    for name, repeated in (("texts", 4), ("test", 1)):
        labels = [0, 1, 0, 1, 0, 1] * repeated
        pq.write_table(pa.table({"text": TEXTS * repeated, "label": labels}), tmp_path / f"{name}.parquet")
    library = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.train_from_iterator(TEXTS[:4], trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False))
    library.save(str(tmp_path / "own.json"))

    def simulate(*settings, out="run"):
        options = [part for setting in settings for part in ("--set", setting)]
        return cli.run("-c", "experiment.toml", *options, "--workers", 1, "--json", out=tmp_path / out, cwd=tmp_path)

    return simulate


@pytest.mark.parametrize(
    "mode", [mode if mode in QUICK else pytest.param(mode, marks=pytest.mark.slow) for mode in RUNS]
)
def test_texts_are_trained_on_in_every_mode_and_the_report_says_whose_their_tokens_are(mode, run):
    done = run(*RUNS[mode])
    assert done.status == 0, done.stdout + done.stderr
    report = Report.model_validate_json((done.out / "report.json").read_bytes())
    encoder = report.model.encoder
    assert (report.data.kind, report.data.shape) == ("text", (100,))
    assert encoder.shape == (8,)
    assert encoder.vocabulary == (16_385 if "words" in mode else len(json.loads(_file(run, done))) + 1)
    gaps = [gap for gap in report.privacy.not_covered if encoder.name in gap]
    assert len(gaps) == (mode.split("-")[0] != "none")
    assert all(gap.endswith("the words of a test (declared, and not checked).") for gap in gaps)
    assert report.model.gradients == ("book-keeping" if "record" in mode else None)
    cut = [warning for warning in report.warnings if "what is beyond is not read" in warning]
    assert [warning[:35] for warning in cut] == [
        "1 of 6 test texts have data.max_byt",
        "1 of 6 test texts have task.max_tok",
    ]
    if report.proof is not None:
        assert audit_report(done.out).outcome != "refuted"
    weights = load_run(done.out).model().state_dict()
    assert weights["embedding.weight"].shape == (encoder.vocabulary, 64)


def _file(run, done):
    return json.dumps(json.loads((done.out.parent / "own.json").read_text())["model"]["vocab"])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ([], "set task.encoder to"),
        (["task.encoder=own.json"], "has no declared origin"),
        (["task.encoder=texts.json", "task.encoder_origin=none"], "the tokenizer cannot be read: No such file"),
        ([*FILE, f"task.encoder_digest={'0' * 64}"], "another encoder than the experiment declares"),
        ([*WORDS, "task.model=mlp"], "models that fit it"),
        ([*WORDS, *RECORD, *FITTED], "the numbers of tokens are names of words"),
        ([*WORDS, "data.text_column=label"], "text_column names label, the column of the label"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_trained(settings, problem, run, tmp_path):
    done = run(*settings)
    assert done.status == 2
    assert problem in json.loads(done.stdout)["error"]
    assert not (tmp_path / "run" / "clients").exists()


def test_the_example_of_the_page_trains(cli, tmp_path):
    example = re.search(r"^```toml\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "news.toml").write_text(example[1])
    (tmp_path / "news").mkdir()
    for name, repeated in (("train", 20), ("test", 4)):
        texts = pa.table({"text": TEXTS[:4] * repeated, "label": [0, 1, 0, 1] * repeated})
        pq.write_table(texts, tmp_path / "news" / f"{name}.parquet")
    settings = ("--set", "federation.rounds=2", "--workers", 1)
    done = cli.run("-c", "news.toml", *settings, out=tmp_path / "run", cwd=tmp_path)
    assert done.status == 0, done.stdout + done.stderr
    trained = load_run(done.out)
    assert trained.report.evaluation.final.records == 16
    (tmp_path / "new.csv").write_text('id,text\n1,"good, good"\n2,\n3,a bad é\n')
    found = predict(trained, tmp_path / "new.csv")
    tokens = torch.tensor(
        [[*HashedWords(128).numbers(text), *[0] * 128][:128] for text in ("good, good", "", "a bad é")]
    )
    with torch.no_grad():
        expected = trained.model()(tokens).double().softmax(dim=1)
    assert found.values == pytest.approx(expected.numpy(), abs=1e-6)
