import json
import re
import subprocess
import sys
import warnings

import pytest

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app

from fedtrain.cli.simulate import demo
from fedtrain.config import read_toml

PROGRAM = """
import sys
from fedtrain.cli import main
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('[privacy]\nmode = "record"\nsampling_rate = 0.1\ndelta = 1e-3\n')
    return path


def call(*arguments):
    return CliRunner().invoke(app, ["config", "check", *map(str, arguments)])


def test_what_can_be_used_is_ok_and_its_plan_is_shown(file):
    assert call(file).stdout == f"{file}: ok\n"
    assert call(file, "--quiet").stdout == ""
    planned = call(file, "--plan", "--set", "federation.rounds=2")
    assert planned.exit_code == 0
    assert "epsilon" in planned.stdout
    none = json.loads(
        call(file, "--set", "privacy.mode=none", "--set", "privacy.sampling_rate=", "--plan", "--json").stdout
    )
    assert none == {"valid": True, "problems": [], "missing": [], "plan": None}


def test_every_problem_is_told_with_what_is_allowed(file):
    result = call(file, "--set", "privacy.epsilon=-1", "--set", "federation.round=3")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {file} has 2 problems:\n" in result.stderr
    assert "privacy.epsilon: -1 is not allowed\n    allowed: a number above 0\n    meaning: the budget" in result.stderr
    assert "did you mean federation.rounds?" in result.stderr
    answer = json.loads(call(file, "--set", "privacy.epsilon=-1", "--json").stdout)
    assert [problem["field"] for problem in answer["problems"]] == ["privacy.epsilon"]


def test_files_that_are_not_here_are_a_warning(file, tmp_path):
    path = tmp_path / "gone.npz"
    result = call(file, "--set", "data.source=npz", "--set", f"data.path={path}", "--set", "data.test_fraction=0.1")
    assert result.exit_code == 0
    assert f"warning: data.path = '{path}': there is no such file or folder on this machine" in result.stdout


def test_a_wrong_field_is_told_before_torch_is_imported(file):
    arguments = ["config", "check", str(file), "--set", "privacy.epsilon=-1"]
    process = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    packages = set(process.stderr.splitlines()[-1].split())
    assert packages & {"torch", "flwr", "opacus", "matplotlib", "dp_accounting", "pyarrow"} == set()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (r'"\u001b[2J" = 1', "there is no such field"),
        (r'name = "a\u001b[2J\u0007"', "name"),
        (r'task.name = "a\u009b2J"' + "\nseed = -1", "seed"),
        ("a = " + "[" * 5000, "TOML"),
        ("seed = 1" + "0" * 5000, "TOML|seed"),
        ("seed = inf", "seed"),
        ("[[privacy]]\nmode = 1", "privacy"),
        ("privacy = 3", "privacy"),
        ("seed = 2020-01-01", "seed"),
        ("\0" * 9, "UTF"),
    ],
)
def test_a_file_of_anybody_is_refused_in_words_that_only_show_themselves(tmp_path, content, message):
    (tmp_path / "my.toml").write_text(content)
    result = call(tmp_path / "my.toml")
    assert result.exit_code == 2
    assert re.search(message, result.stderr)
    assert all(letter.isprintable() or letter == "\n" for letter in result.stderr)
    assert len(result.stderr) < 10_000


def test_a_file_to_begin_with_is_every_field_and_the_demo(tmp_path):
    path = tmp_path / "mine.toml"
    result = CliRunner().invoke(app, ["init", str(path), "--set", "name=mine", "--set", "privacy.epsilon=4"])
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, f"wrote {path}")
    assert call(path).stdout == f"{path}: ok\n"
    assert read_toml(path) == read_toml(demo()) | {"name": "mine", "privacy.epsilon": 4}
    again = CliRunner().invoke(app, ["init", str(path)])
    assert (again.exit_code, again.stderr) == (2, f"error: {path} is there already; remove it, or name another file\n")
    link = tmp_path / "link.toml"
    link.symlink_to(tmp_path / "nowhere.toml")
    assert CliRunner().invoke(app, ["init", str(link)]).exit_code == 2
    assert link.is_symlink()
    long = CliRunner().invoke(app, ["init", str(tmp_path / f"{'a' * 300}.toml")])
    assert (long.exit_code, long.exception.__class__) == (2, SystemExit)
    other = CliRunner().invoke(app, ["init", str(tmp_path / "other.toml"), "--set", "privacy.epsilon=-1"])
    assert other.exit_code == 2
    assert "--config" not in other.stderr  # which it does not have
    assert not (tmp_path / "other.toml").exists()
