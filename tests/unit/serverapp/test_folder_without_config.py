import dataclasses

import pytest

from fedtrain.errors import ConfigError
from fedtrain.serverapp.run_folder import RunFolder
from tests.fakes import digits_experiment


def test_checkpoints_of_an_unknown_run_are_not_continued(tmp_path, make_state):
    experiment = digits_experiment(tmp_path, output__directory=str(tmp_path / "run"))
    folder = RunFolder.open(experiment)
    folder.save_checkpoint(dataclasses.replace(make_state(), round_number=1))
    (folder.path / "config.toml").unlink()
    with pytest.raises(ConfigError, match=r"checkpoints and no config.toml"):
        RunFolder.open(experiment)
