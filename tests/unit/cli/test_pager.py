import os
import pty
import select
import subprocess
import sys
import time

import pytest

SHOW = "from fedtrain.cli.pager import page; page(['head'], ['one', 'two']); print('after')"
# Writes what it is given to a file, with its environment.
PAGER = """\
import os, sys
text = sys.stdin.read()
names = ("LESSSECURE", "LESSOPEN", "LESSCLOSE")
open(sys.argv[1], "w").write(text + repr({name: os.environ[name] for name in names if name in os.environ}))
sys.exit(int(sys.argv[2]))
"""


def on_a_terminal(pager, *, term="xterm", **variables):
    """Return what a terminal shows of two lines under a head, with a pager."""
    main, terminal = pty.openpty()
    environment = {**os.environ, "PAGER": pager, "TERM": term, **variables}
    with subprocess.Popen(
        [sys.executable, "-c", SHOW], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    ) as process:
        os.close(terminal)
        shown, end = b"", time.monotonic() + 60
        while time.monotonic() < end:
            if select.select([main], [], [], 0.05)[0]:
                try:
                    shown += os.read(main, 4096)
                except OSError:  # the other end is closed
                    break
        os.close(main)
        assert process.wait(timeout=20) == 0, shown
    return shown.decode().replace("\r\n", "\n")


@pytest.fixture
def pager(tmp_path):
    (tmp_path / "pager.py").write_text(PAGER)
    return f"'{sys.executable}' '{tmp_path / 'pager.py'}' '{tmp_path / 'shown'}'"


def test_the_pager_of_the_environment_gets_the_lines_and_starts_no_programs(pager, tmp_path):
    shown = on_a_terminal(f"{pager} 0", LESSOPEN="|touch planted", LESSCLOSE="touch planted")
    assert shown == "after\n"
    assert (tmp_path / "shown").read_text() == "head\none\ntwo\n" + repr({"LESSSECURE": "1"})


def test_no_shell_reads_the_name_of_the_pager(tmp_path):
    assert on_a_terminal(f"cat; touch {tmp_path / 'planted'}") == "one\ntwo\nafter\n"
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("name", ["nothing-of-this-name", "'"])
def test_where_there_is_no_pager_the_lines_are_written(name):
    assert on_a_terminal(name).endswith("one\ntwo\nafter\n")


def test_where_the_pager_fails_the_lines_are_written(pager):
    assert on_a_terminal(f"{pager} 3").endswith("one\ntwo\nafter\n")


def test_a_terminal_that_cannot_page_gets_the_lines(pager, tmp_path):
    assert on_a_terminal(f"{pager} 0", term="dumb") == "one\ntwo\nafter\n"
    assert not (tmp_path / "shown").exists()


def test_without_a_terminal_the_lines_are_written():
    done = subprocess.run(
        [sys.executable, "-c", SHOW], input="", capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "one\ntwo\nafter\n"
