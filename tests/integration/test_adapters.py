"""Adapters at a frozen network through the command line: a task of one's own in every mode, and what is refused."""

import json
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file

from fedtrain import audit_report, load_run
from fedtrain.export import export
from fedtrain.prediction import predict
from fedtrain.report import Report
from tests.integration.modes import CLIENT, RECORD, SHARED, SUMMED

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "own_adapters.py"
PAGE = ROOT / "docs" / "how-to" / "adapt-a-large-model.md"
RUNS = {
    "none-summed": SUMMED,
    "record": RECORD,
    "record-summed": [*RECORD, *SUMMED],
    "record-shared-summed": [*RECORD, *SHARED],
    "client-summed": [*CLIENT, *SUMMED],
    "client-shared-summed": [*CLIENT, *SHARED],
}
QUICK = {"none-summed", "record-shared-summed"}  # the others in CI alone: each runs a whole command, for seconds
TEXTS = ["good film", "bad film", "good, good plot", "a bad, bad end", "", "good é"]
WIDTH, LAYERS, RANK = 16, 2, 4
TRAINED = LAYERS * 2 * 2 * WIDTH * RANK + 2 * WIDTH + 2


@pytest.fixture
def run(cli, tmp_path):
    """Give a function that runs the example on a few texts and a network of a few numbers, with settings."""
    (tmp_path / "experiment.toml").write_text(
        'name = "adapted"\n'
        "[federation]\nclients = 3\ncohort = 3\nrounds = 1\n"
        '[data]\nsource = "parquet"\npath = "texts.parquet"\ntest_path = "test.parquet"\n'
        'text_column = "text"\nmax_bytes = 20\n'
        '[task]\nname = "own_adapters:Notes"\nencoder = "bytes"\nmax_tokens = 6\n'
        "[training]\nbatch_size = 4\nlocal_steps = 1\n"
    )
    for name, repeated in (("texts", 4), ("test", 1)):
        labels = [0, 1, 0, 1, 0, 1] * repeated
        pq.write_table(pa.table({"text": TEXTS * repeated, "label": labels}), tmp_path / f"{name}.parquet")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 24}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(vocab_size=257, max_position_embeddings=16, **sizes, **quiet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "network")
    source = EXAMPLE.read_text()
    (tmp_path / "own_adapters.py").write_text(source.replace("0" * 64, _digest(source, tmp_path)))

    def simulate(*settings, out="run"):
        options = [part for setting in settings for part in ("--set", setting)]
        return cli.run("-c", "experiment.toml", *options, "--workers", 1, "--json", out=tmp_path / out, cwd=tmp_path)

    return simulate


def _digest(source, folder):
    """Return the digest of the frozen weights, as the page says to find it."""
    from fedtrain.tasks import digest_of_frozen

    names = {"__name__": "own_adapters"}
    exec(compile(source.replace('"network"', repr(str(folder / "network"))), "own_adapters.py", "exec"), names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return digest_of_frozen(names["Adapted"](2))


@pytest.mark.parametrize(
    "mode", [mode if mode in QUICK else pytest.param(mode, marks=pytest.mark.slow) for mode in RUNS]
)
def test_adapters_of_ones_own_are_trained_in_every_mode_and_nothing_else_is_sent(mode, run, tmp_path):
    done = run(*RUNS[mode])
    assert done.status == 0, done.stdout + done.stderr
    report = Report.model_validate_json((done.out / "report.json").read_bytes())
    public, whole = report.model.public, load_file(tmp_path / "network" / "model.safetensors")
    assert report.model.parameters == TRAINED
    assert public.parameters == sum(value.numel() for value in whole.values())
    assert public.digest in (tmp_path / "own_adapters.py").read_text()
    assert (public.sent_bytes, public.whole_bytes) == (4 * TRAINED, 4 * (TRAINED + public.parameters))
    assert report.model.gradients == ("book-keeping" if "record" in mode else None)
    averaged = [warning for warning in report.warnings if "the aggregate is not exact" in warning]
    assert len(averaged) == ("shared" not in mode)
    if report.proof is not None:
        assert audit_report(done.out).outcome != "refuted"
    saved = load_file(done.out / "model-final.safetensors")
    assert sum(value.numel() for value in saved.values()) == TRAINED
    assert all("lora_" in name or name.startswith("dense.") for name in saved)
    page = (done.out / "report.html").read_text()
    assert "frozen numbers that never travel" in page
    assert "fitted on public encyclopaedias" in page


def test_a_run_with_adapters_predicts_from_what_was_saved_and_the_frozen_weights_of_the_machine(
    run, tmp_path, monkeypatch
):
    done = run("federation.rounds=2")
    assert done.status == 0, done.stdout + done.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "new.csv").write_text('text\n"good, good"\na bad é\n')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = predict(load_run(done.out), tmp_path / "new.csv")
    assert found.values.shape == (2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = export(load_run(done.out), tmp_path / "card", onnx=False)
    card = (written.folder / "README.md").read_text()
    assert "has what was trained alone" in card
    assert "fitted on public encyclopaedias" in card
    assert (written.folder / "model.safetensors").stat().st_size < 4 * TRAINED + 5000


def test_other_frozen_weights_are_refused_before_anything_is_trained(run, tmp_path):
    file = tmp_path / "network" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    done = run(*RECORD)
    assert done.status == 2
    assert "the frozen weights of the model are other ones than its task declares" in json.loads(done.stdout)["error"]
    assert not (tmp_path / "run" / "clients").exists()


def test_adapters_that_do_not_move_are_refused_before_anything_is_trained(run, tmp_path):
    file = tmp_path / "own_adapters.py"
    built = "        self.dense = nn.Linear"
    assert built in file.read_text()
    file.write_text(file.read_text().replace(built, f"        self.network.merge_adapter()\n{built}"))
    done = run(*RECORD)
    assert done.status == 2
    assert "have no gradient of any synthetic record" in json.loads(done.stdout)["error"]
    assert not (tmp_path / "run" / "clients").exists()


def test_the_page_shows_the_example():
    assert f"```python\n{EXAMPLE.read_text()}```\n" in PAGE.read_text()
