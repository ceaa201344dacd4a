"""What the final model of a language writes, and that none of it can cost a run its report."""

import logging
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedtrain.config import Experiment
from fedtrain.encoders.tokens import Bytes
from fedtrain.serverapp.preparation import prepare
from fedtrain.serverapp.reporting import build_report
from fedtrain.serverapp.result_warnings import of_sample
from fedtrain.serverapp.rounds import initial_state
from fedtrain.serverapp.sample import sample_of


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    files = {"path": str(folder / "train.parquet"), "test_path": str(folder / "test.parquet")}
    for file in files.values():
        pq.write_table(pa.table({"text": ["Speak, speak.", "Ay, sir.", "", "O"]}), file)
    settings = {
        "federation": {"clients": 2, "cohort": 2},
        "data": {"source": "parquet", "target": "text", "text_column": "text", "max_bytes": 40} | files,
        "task": {"name": "language", "encoder": "bytes", "max_tokens": 12},
        "output.screen": "none",
    }
    return prepare(Experiment.from_dict(settings))


def test_texts_are_drawn_from_the_model_and_the_seed_alone(prepared):
    found = sample_of(prepared, initial_state(prepared))
    assert (len(found.texts), found.tokens) == (5, 12)
    assert all(len(text.encode()) <= 3 * 12 for text in found.texts)  # a byte that is no character becomes three
    assert sample_of(prepared, initial_state(prepared)) == found


class Strange(Bytes):
    """A tokenizer of somebody's own, whose ``written`` does what a test says."""

    def written(self, tokens):
        return self.does(tokens)


@pytest.mark.parametrize("does", [lambda tokens: 1 / 0, list, lambda tokens: tokens[10**6]])
def test_a_tokenizer_that_cannot_write_costs_the_sample_and_no_report(prepared, caplog, does):
    tokenizer = Strange(12)
    tokenizer.does = does
    strange = replace(prepared, encoder=replace(prepared.encoder, module=tokenizer))
    with caplog.at_level(logging.WARNING):
        assert sample_of(strange, initial_state(prepared)) is None
    assert "the report has no sample of text: writing texts with the final model raised" in caplog.text


@pytest.mark.parametrize("returned", ["a pair", "one length"])
def test_a_model_that_takes_whole_texts_alone_costs_the_sample_and_no_report(prepared, caplog, monkeypatch, returned):
    def forward(self, before):
        if returned == "one length":
            before.reshape(-1, 12)
        return self.dense(self.recurrent(self.embedding(before))[0]), None

    monkeypatch.setattr(type(prepared.model), "forward", forward)
    with caplog.at_level(logging.WARNING):
        assert sample_of(prepared, initial_state(prepared)) is None
    assert "the report has no sample of text" in caplog.text


@pytest.mark.parametrize(("mode", "warned"), [("none", True), ("record", False), ("client", False)])
def test_the_report_warns_of_a_sample_that_may_repeat_records(prepared, mode, warned):
    state = initial_state(prepared)
    sample = sample_of(prepared, state)
    said = of_sample(sample, mode)
    assert ("may repeat the words of training records" in said) == warned
    assert of_sample(None, mode) == ""
    if mode == prepared.experiment.privacy.mode:
        facts = {"run": "0" * 32, "status": "interrupted", "reason": "stopped", "final": None, "best": None}
        report = build_report(prepared, state, None, **facts, sample=sample)
        assert said in report.warnings
        assert not any("repeat the words" in each for each in build_report(prepared, state, None, **facts).warnings)
