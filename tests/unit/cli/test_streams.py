"""What a command prints where its streams are not those of a terminal with a modern encoding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedtrain.cli import streams
from fedtrain.cli.running import say

ROOT = Path(__file__).parents[3]


def python(program, *, shell="", **environment):
    """Run a program by a shell, which redirects its streams."""
    command = ["bash", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, program]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=variables, capture_output=True, check=False)


LOUD = """
import atexit, os, subprocess, sys
from fedtrain.cli.streams import answering
print("before")
atexit.register(print, "at exit")
with answering(True) as answer:
    print("a print")
    sys.stdout.write("no line's end")
    os.write(1, b"the descriptor")
    subprocess.run(["echo", "a program"], check=True)
    answer({"name": "caf\\N{LATIN SMALL LETTER E WITH ACUTE}"})
    print("after")
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_nothing_but_the_object_is_on_standard_output(encoding):
    ended = python(LOUD, PYTHONIOENCODING=encoding)
    assert ended.returncode == 0
    assert ended.stdout == b'before\n{"name": "caf\\u00e9"}\n'
    for text in (b"a print", b"no line's end", b"the descriptor", b"a program", b"after", b"at exit"):
        assert text in ended.stderr


def test_in_another_program_its_own_stream_gets_the_object(capsys):
    before = sys.stdout
    with streams.answering(True) as answer:
        print("a print")
        answer({"n": 1})
    assert sys.stdout is before
    out, err = capsys.readouterr()
    assert json.loads(out) == {"n": 1}
    assert err == "a print\n"


SAYS = """
import sys
from fedtrain.cli.streams import prepare_streams
prepare_streams()
print("caf\\N{LATIN SMALL LETTER E WITH ACUTE} \\N{SNOWMAN}")
sys.stderr.write("caf\\N{LATIN SMALL LETTER E WITH ACUTE}")
print(repr(sys.stdin.read()))
"""


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", b"caf\\xe9 \\u2603"), ("latin-1", b"caf\xe9 \\u2603"), ("utf-8", "café ☃".encode())],
)
def test_what_an_encoding_does_not_have_is_escaped(encoding, shown):
    ended = python(SAYS, shell="</dev/null", PYTHONIOENCODING=encoding)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0] == shown


def test_the_help_is_shown_in_ascii():
    ended = python("from fedtrain.cli import main; main()", shell="simulate --help", PYTHONIOENCODING="ascii")
    assert ended.returncode == 0, ended.stderr
    assert b"--config" in ended.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_take_what_is_printed(tmp_path, closed):
    file = tmp_path / "file"
    # The next file that is opened does not get what is printed.
    program = f"{SAYS}\nfile = open({str(file)!r}, 'w')\nprint('lost')\nfile.write('kept')\nfile.close()\nsys.exit(7)"
    ended = python(program, shell=closed)
    assert ended.returncode == 7, ended.stderr
    assert file.read_text() == "kept"


def test_a_folder_that_was_deleted_is_refused(tmp_path):
    program = "import os; os.rmdir(os.getcwd()); from fedtrain.cli import main; main()"
    gone = tmp_path / "gone"
    gone.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", program, "simulate"],
        cwd=gone,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the current folder cannot be found")
    assert ended.stderr.count("\n") == 1


def test_what_a_service_tells_is_text_whoever_said_it(capsys):
    say("the server answers: \x1b[2J\rall is well")
    shown = capsys.readouterr().out
    assert shown.endswith("the server answers: \N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}all is well\n")
