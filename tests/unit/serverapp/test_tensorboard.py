import builtins

import pytest

from fedtrain.errors import ConfigError
from fedtrain.serverapp.tensorboard import open_board


def scalars(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_values_are_written_and_those_beyond_the_checkpoint_again(tmp_path):
    with open_board(tmp_path, enabled=True, after=0) as board:
        for step in (1, 2, 3):
            board.add_scalar("loss", float(step), step)
    with open_board(tmp_path, enabled=True, after=1) as board:
        board.add_scalar("loss", 20.0, 2)
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 20.0)]


def test_nothing_is_written_unless_asked_for(tmp_path):
    with open_board(tmp_path, enabled=False, after=0) as board:
        assert board is None
    assert list(tmp_path.iterdir()) == []


def test_a_missing_installation_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name == "torch.utils.tensorboard":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"fedtrain\[tensorboard\]"), open_board(tmp_path, enabled=True, after=0):
        pass
