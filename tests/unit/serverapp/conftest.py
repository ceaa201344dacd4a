import os

import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fedtrain.report import Evaluation, RoundEntry
from fedtrain.serverapp.checkpoint import RunState
from fedtrain.serverapp.preparation import prepare
from tests.fakes import digits_experiment, private_experiment
from tests.notary import Notary


@pytest.fixture(autouse=True, scope="module")
def no_loss_of_power():
    """Wait for no disk: a run synchronizes hundreds of times, and no test here loses power.

    That the descriptor is open is checked. Tests of files and of ledgers synchronize.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: os.fstat(descriptor) and None)
        yield


@pytest.fixture(autouse=True, scope="module")
def empty_pictures():
    """Let matplotlib draw nothing: the pictures of a run's page take as long as its training, and nobody looks at them.

    What is in them is composed as ever. Tests of the page and of the command have them drawn.
    """

    def save(figure, file, **_):
        file.write(b'<svg xmlns="http://www.w3.org/2000/svg"/>')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)
        yield


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Hold the decoded digits for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def plain(cache):
    return prepare(digits_experiment(cache))


@pytest.fixture(scope="session")
def private(cache):
    return prepare(private_experiment(cache, federation__sites=str(cache / "sites")))


@pytest.fixture
def notary(private, tmp_path):
    """Sign as the server and the clients of the private experiment."""
    return Notary(private, tmp_path / "notary")


@pytest.fixture
def make_state():
    """Give a function that makes the state of a run by hand."""

    def make(cohorts=(), *, model=None, strategy=None, accuracies=(), seconds=1.5):
        log = tuple(
            RoundEntry(
                round=number,
                cohort=cohort,
                completed=cohort,
                dropped=(),
                sealed=False,
                secagg=None,
                clip_norm=None,
                learning_rate=0.1,
                seconds=0.5,
            )
            for number, cohort in dict(cohorts).items()
        )
        return RunState(
            round_number=len(log),
            model=model or {},
            strategy=strategy or {},
            evaluations=tuple(Evaluation(round=number, accuracy=value) for number, value in enumerate(accuracies)),
            round_log=log,
            clip_norm=0.5,
            seconds=seconds,
        )

    return make
