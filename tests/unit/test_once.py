import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.once import made_once


def test_what_two_ask_for_at_once_is_made_once(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "file").write_text(str(len(made)))

    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(lambda _: made_once(tmp_path, "it", make), range(8)))
    assert found == set(made) == {made_once(tmp_path, "it", make)}
    assert (made[0] / "file").read_text() == "1"
    assert made_once(tmp_path, "other", make) == made[1]


def test_what_failed_is_made_anew_in_another_folder(tmp_path):
    def fail(folder):
        (folder / "file").write_text("half")
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        made_once(tmp_path, "it", fail)
    folder = made_once(tmp_path, "it", lambda folder: (folder / "other").write_text("whole"))
    assert [path.name for path in folder.iterdir()] == ["other"]


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=made_once, args=(tmp_path, "it", kill_this_process))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert list(made_once(tmp_path, "it", lambda folder: None).iterdir()) == []


def kill_this_process(folder):
    (folder / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
