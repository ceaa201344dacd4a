import logging
import threading

import pytest

from fedtrain import Experiment, progress, simulate
from fedtrain.errors import DataError
from fedtrain.progress import shown, working


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "NEXT", 0.001)


@pytest.fixture
def said():
    """Return a function that waits until a line is said that has these words."""

    class Lines(logging.Handler):
        def __init__(self):
            super().__init__()
            self.lines, self.more = [], threading.Condition()

        def emit(self, record):
            with self.more:
                self.lines.append(record.getMessage())
                self.more.notify_all()

    handler, logger = Lines(), logging.getLogger("fedtrain.progress")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    def wait(words):
        with handler.more:
            assert handler.more.wait_for(lambda: any(words in line for line in handler.lines), timeout=60)

    yield wait
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_work_says_what_it_is_and_how_far(said):
    with working("decoding images", 200) as done:
        said("decoding images: 0 % (0 s)")
        done(101)
        said("decoding images: 50 %")


def test_work_of_no_known_length_says_what_it_is(said):
    with working("reading data.npz"):
        said("reading data.npz (0 s)")


def test_of_work_inside_of_other_work_the_innermost_is_said(said):
    with working("outside"):
        said("outside")
        with working("inside"):
            said("inside")
        said("outside")


def test_no_thread_is_left_even_after_an_error(said):
    before = threading.active_count()

    def fail():
        with working("outside"), working("inside"):
            said("inside")
            assert threading.active_count() == before + 1
            raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        fail()
    assert threading.active_count() == before
    with working("again"):
        said("again")


def test_shown_prints_each_line_once_to_standard_error(said, capsys):
    with shown(), shown(), working("reading"):
        said("reading")
        progress._log.info("counted")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("counted\n") == 1
    with working("not shown"):
        said("not shown")
    assert capsys.readouterr().err == ""


def test_what_is_done_fast_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST", 3600.0)
    with shown(), working("reading"):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("screen", "printed"), [("plain", True), ("none", False)])
def test_a_program_sees_what_takes_long_unless_it_wants_silence(said, capsys, screen, printed):
    class Slow:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 2:
                said("reading the items of the training data set: 66 %")
                raise KeyError("planted")
            return [0.0, 1.0, 2.0][index], index

    experiment = Experiment.from_dict({"data.source": "object", "output.screen": screen})
    with pytest.raises(DataError, match="training data set, item 2 cannot be read: KeyError"):
        simulate(experiment, data=(Slow(), Slow()))
    assert ("reading the items of the training data set" in capsys.readouterr().err) == printed
