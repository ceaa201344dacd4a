import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedtrain.config import from_flat, read_toml, to_flat
from fedtrain.crypto import Identity, read_or_create_secret
from fedtrain.errors import ClientError, ConfigError, KeyFileError, StorageError
from fedtrain.serverapp.identity import RunIdentity
from fedtrain.serverapp.preparation import prepare
from fedtrain.serverapp.reporting import build_report
from fedtrain.serverapp.run_folder import RunFolder
from fedtrain.trust import Roster
from tests.fakes import digits_experiment

ROOT = Path(__file__).parents[3]
ABOUT = RunIdentity(train="a", test="b", model={}, task="")


@pytest.fixture
def experiment(cache, tmp_path):
    """Give a function that makes experiments which write to one folder."""
    return lambda **settings: digits_experiment(cache, output__directory=str(tmp_path / "run"), **settings)


def begun(experiment):
    """Return the folder of a run that begins."""
    folder = RunFolder.open(experiment)
    folder.begin(experiment)
    return folder


def checkpoints(folder):
    return sorted(path.name for path in (folder.path / "checkpoints").glob("round-*"))


def test_a_new_run_leaves_its_configuration(experiment):
    config = experiment(name='a "name" of quotes', training__learning_rate=0.1 + 0.2, data__test_fraction=0.25)
    folder = begun(config)
    assert folder.path.is_dir()
    assert from_flat(read_toml(folder.path / "config.toml")) == config
    assert read_toml(folder.path / "config.toml") == to_flat(config)
    assert folder.load_checkpoint() is None
    assert folder.model_file("best") is None


def test_a_run_without_a_folder_gets_one_with_its_name_and_the_time(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = begun(digits_experiment(cache, name="mine"))
    assert folder.path.parent == Path("runs")
    assert folder.path.name.startswith("mine-20")
    assert (tmp_path / folder.path / "config.toml").is_file()


@pytest.mark.parametrize("below", ["", "run", "runs/first"])
def test_a_file_in_the_place_of_the_folder_is_refused_before_anything_starts(cache, tmp_path, below):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ConfigError, match=r"taken is a file, so that .* can be no folder: .*--out"):
        RunFolder.of(digits_experiment(cache, output__directory=str(tmp_path / "taken" / below)))
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_that_holds_a_run_is_not_written_over(experiment):
    folder = begun(experiment())
    before = (folder.path / "config.toml").read_bytes()
    with pytest.raises(ConfigError, match=r"holds a run already: .*--resume.*--out"):
        RunFolder.open(experiment(training__learning_rate=0.7))
    assert (folder.path / "config.toml").read_bytes() == before


def test_resuming_needs_the_same_configuration_and_names_what_changed(experiment):
    begun(experiment())
    with pytest.raises(ConfigError, match="another configuration") as caught:
        RunFolder.open(
            experiment(
                output__resume=True,
                device="auto",
                training__learning_rate=0.7,
                federation__rounds=30,
                data__path="x",
            )
        )
    message = str(caught.value)
    # The noise of one seed is not the same on another device, and what was charged is not charged again.
    assert "device was 'cpu' and is 'auto'" in message
    assert "training.learning_rate was 0.1 and is 0.7" in message
    assert "federation.rounds was 3 and is 30" in message
    assert "data.path was unset and is 'x'" in message
    assert "seed" not in message
    assert "federation.clients" not in message


def test_what_does_not_change_the_results_may_change(experiment, tmp_path):
    begun(experiment())
    resumed = RunFolder.open(
        experiment(output__resume=True, output__screen="none", data__cache=str(tmp_path / "other"))
    )
    assert resumed.path == tmp_path / "run"


def test_resuming_a_folder_that_holds_no_run_starts_one(experiment):
    assert RunFolder.open(experiment(output__resume=True)).load_checkpoint() is None


def test_resuming_without_a_folder_is_refused(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"output\.resume is set and output\.directory is not"):
        RunFolder.open(digits_experiment(cache, output__resume=True))
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_is_damaged_is_not_taken_for_a_new_folder(experiment):
    folder = begun(experiment())
    (folder.path / "config.toml").write_text("= no toml")
    with pytest.raises(ConfigError, match="is not TOML"):
        RunFolder.open(experiment(output__resume=True))


def test_a_folder_that_cannot_be_made(cache, tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "gone" / "elsewhere")
    with pytest.raises(StorageError, match="cannot make the run folder"):
        RunFolder.open(digits_experiment(cache, output__directory=str(tmp_path / "run")))


def test_the_two_newest_checkpoints_are_kept(experiment, make_state):
    folder = RunFolder.open(experiment())
    for rounds in range(1, 5):
        state = make_state(dict.fromkeys(range(1, rounds + 1), (0, 1)), model={"w": np.full(2, rounds)})
        folder.save_checkpoint(state)
        assert folder.load_checkpoint().round_number == rounds
        assert folder.load_checkpoint().model["w"].tolist() == [rounds, rounds]
    assert checkpoints(folder) == ["round-000003.safetensors", "round-000004.safetensors"]


def test_round_numbers_of_any_length_are_in_order(experiment, make_state):
    folder = RunFolder.open(experiment())
    for rounds in (9, 10, 100):
        folder.save_checkpoint(make_state(dict.fromkeys(range(1, rounds + 1), (0,))))
    assert folder.load_checkpoint().round_number == 100


def test_a_damaged_checkpoint_is_named_and_the_one_before_can_be_used(experiment, make_state):
    folder = RunFolder.open(experiment())
    for rounds in (1, 2):
        folder.save_checkpoint(make_state(dict.fromkeys(range(1, rounds + 1), (0,))))
    newest = folder.path / "checkpoints" / "round-000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    with pytest.raises(StorageError, match=r"round-000002.safetensors: .*remove it to continue from the one before"):
        folder.load_checkpoint()
    newest.unlink()
    assert folder.load_checkpoint().round_number == 1


def test_metrics_are_replaced(experiment):
    folder = RunFolder.open(experiment())
    folder.save_metrics([{"round": 0}, {"round": 1}, {"round": 2}])
    folder.save_metrics({"round": number, "accuracy": 0.5} for number in (0, 1))
    lines = folder.metrics.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"round": 0, "accuracy": 0.5}, {"round": 1, "accuracy": 0.5}]


def test_a_model_is_written_with_its_digest(experiment):
    folder = RunFolder.open(experiment())
    model = {"w": np.arange(3, dtype=np.float32), "n": np.array(5)}
    written = folder.save_model("best", model)
    path = folder.path / "model-best.safetensors"
    assert written.file == path.name
    assert written.sha256 == sha256(path.read_bytes()).hexdigest()
    assert folder.model_file("best") == written
    assert folder.model_file("final") is None
    read = load_file(path)
    assert read["w"].tolist() == [0, 1, 2]
    assert read["n"].shape == ()


def test_reports_are_written(experiment, make_state):
    folder = RunFolder.open(experiment())
    report = build_report(
        prepare(experiment()), make_state(), None, run="r", status="interrupted", reason=None, final=None, best=None
    )
    folder.save_report(report, "<p>page</p>")
    assert json.loads((folder.path / "report.json").read_text())["status"] == "interrupted"
    assert folder.html.read_text() == "<p>page</p>"


FULL_DISK = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from fedtrain.errors import StorageError
from fedtrain.serverapp.run_folder import RunFolder
from fedtrain.serverapp.checkpoint import RunState

def state(number, size):
    return RunState(round_number=number, model={"w": np.full(size, number)}, strategy={}, evaluations=(),
                    round_log=(), clip_norm=0.0, seconds=0.0)

folder = RunFolder(path=Path(sys.argv[1]))
folder.save_checkpoint(state(1, 1000))
folder.save_checkpoint(state(2, 1000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    folder.save_checkpoint(state(3, 10_000))
except StorageError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_checkpoints_before(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "cannot write" in done.stdout
    assert "round-000003.safetensors" in done.stdout
    folder = RunFolder(path=tmp_path)
    # Neither has the failed one pushed an old one out, nor is a part of it left.
    assert checkpoints(folder) == ["round-000001.safetensors", "round-000002.safetensors"]
    assert folder.load_checkpoint().model["w"].tolist() == [2] * 1000


def test_checkpoints_of_an_unknown_run_are_not_continued(tmp_path, make_state):
    experiment = digits_experiment(tmp_path, output__directory=str(tmp_path / "run"))
    folder = begun(experiment)
    folder.save_checkpoint(dataclasses.replace(make_state(), round_number=1))
    folder.config.unlink()
    with pytest.raises(ConfigError, match=r"checkpoints and no config.toml"):
        RunFolder.open(experiment)


def test_a_record_of_an_unknown_run_is_not_continued(experiment):
    folder = begun(experiment())
    folder.record.write_text("what was asked and charged")
    folder.config.unlink()
    with pytest.raises(ConfigError, match=r"a record and no config.toml"):
        RunFolder.open(experiment())


def test_a_start_that_fails_before_a_run_begins_leaves_its_name_free(experiment):
    def start(folder, *steps):
        with folder.starting():
            for step in steps:
                step()
            raise ClientError("too few clients")

    folder = RunFolder.open(experiment())
    with pytest.raises(ClientError):
        start(folder, folder.started, lambda: Identity.load_or_create(folder.key))
    assert not folder.path.exists()
    (folder.path / "clients").mkdir(parents=True)
    killed = RunFolder.open(experiment())
    killed.check_identity(ABOUT)
    killed.started()  # and the process is killed
    other = RunFolder.open(experiment(training__learning_rate=0.7))
    with pytest.raises(ClientError):
        start(other, other.started, lambda: other.begin(experiment(training__learning_rate=0.7)))
    assert other.started()[1] == 2  # the one before is the first
    assert {path.name for path in other.path.iterdir()} == {"checkpoints", "clients", "config.toml", "starts.json"}


@pytest.mark.parametrize("name", ["membership", "roster", "identity"])
def test_a_folder_of_something_else_is_refused_and_kept(experiment, name):
    """A server's folder and a node's have a membership too, and a start takes away what a start wrote."""
    folder = RunFolder(path=Path(experiment().output.directory))
    file = getattr(folder, name)
    file.parent.mkdir()
    file.write_text("of a federation")
    with pytest.raises(ConfigError, match=rf"holds {file.name} and no run, .* name another folder"):
        RunFolder.open(experiment())
    with pytest.raises(ConfigError, match="and no run"), folder.held(experiment()):
        pass
    assert file.read_text() == "of a federation"


@pytest.mark.parametrize("name", ["key", "data_key"])
def test_a_key_that_is_gone_is_named_before_another_one_is_made(experiment, name):
    folder = begun(experiment())
    folder.identity.write_text("what the run is about")
    Roster(server=Identity.load_or_create(folder.key).public, clients={}).write(folder.roster)
    read_or_create_secret(folder.data_key, lambda: bytes(32))
    again = experiment(output__resume=True)
    RunFolder.open(again)
    key = getattr(folder, name)
    key.unlink()
    with pytest.raises(KeyFileError, match=rf"{key.name} is gone, the .* Put it back"):
        RunFolder.open(again)
    assert not key.exists()


def test_in_a_deployment_the_run_folder_has_no_key_of_the_server(experiment):
    folder = begun(experiment())
    Roster(server=Identity.generate().public, clients={}).write(folder.roster)
    folder.membership.write_text("as the operator signed it")
    RunFolder.open(experiment(output__resume=True))


def test_the_history_grows_by_lines_and_is_cut_where_a_checkpoint_ends(experiment, make_state):
    folder = RunFolder.open(experiment())
    first = folder.save_checkpoint(make_state({1: (0, 1)}, accuracies=(0.1, 0.2)))
    lines = folder.history.read_bytes()
    assert len(lines) == first.mark.length
    second = folder.save_checkpoint(
        replace(make_state({1: (0, 1), 2: (0, 2)}, accuracies=(0.1, 0.2, 0.3)), mark=first.mark)
    )
    assert folder.history.read_bytes().startswith(lines)
    assert (second.mark.evaluations, second.mark.rounds) == (3, 2)
    assert folder.load_checkpoint().evaluations == second.evaluations
    # A kill between the history and its checkpoint, then another course of the same round.
    (folder.path / "checkpoints" / "round-000002.safetensors").unlink()
    again = folder.load_checkpoint()
    assert (again.round_log, again.mark) == (first.round_log, first.mark)
    other = replace(again, round_number=2, round_log=make_state({1: (0, 1), 2: (1, 3)}).round_log)
    folder.save_checkpoint(other)
    assert folder.load_checkpoint().round_log[-1].cohort == (1, 3)
    assert folder.history.read_bytes().count(b"\n") == 4


@pytest.mark.parametrize(("old", "new"), [(b"0.2", b"0.9"), (b"}", b""), (b"\n", b" ")])
def test_a_history_that_is_not_that_of_the_checkpoint_is_named(experiment, make_state, old, new):
    folder = RunFolder.open(experiment())
    state = folder.save_checkpoint(make_state({1: (0, 1)}, accuracies=(0.1, 0.2)))
    folder.history.write_bytes(folder.history.read_bytes().replace(old, new))
    with pytest.raises(StorageError, match=r"cannot read \S+history.jsonl, which the checkpoint .* goes by"):
        folder.load_checkpoint()
    folder.history.unlink()
    with pytest.raises(StorageError, match="has 0 bytes, and the checkpoint is of one with"):
        folder.load_checkpoint()
    with pytest.raises(StorageError, match="it was cut off"):
        folder.save_checkpoint(state)
