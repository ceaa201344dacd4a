"""The tutorials of a table and of a notebook, done as they stand."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorial"


@pytest.mark.slow
def test_a_csv_file_becomes_an_audited_report(cli, tmp_path):
    page = (TUTORIALS / "from-a-csv.md").read_text()
    folder, said = tmp_path, {}
    (new,) = (text for text in re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) if "2025" in text)
    for line in re.findall(r"^\$ (.*)$", page, re.MULTILINE):
        program, *arguments = shlex.split(line)
        if program == "cd":
            folder /= arguments[0]
            (folder / "new.csv").write_text(new)
            continue
        assert program == "fedtrain"
        done = cli.here(*arguments, cwd=folder)
        assert done.status == (4 if arguments[0] == "audit" else 0), done.stdout + done.stderr
        said[arguments[0]] = done.stdout
    assert f"\n{(folder / 'patients.csv').read_text().splitlines()[0]}\n" in page
    assert "look at this: it came from the data" in (folder / "draft.toml").read_text()
    assert "simulation" in said["audit"]
    assert [row["predicted"] for row in csv.DictReader(said["predict"].splitlines())] == ["yes", "no"]


@pytest.mark.slow
def test_a_model_of_a_notebook_becomes_an_audited_report(tmp_path):
    (program,) = re.findall(
        r"^```python\n(.*?)^```$", (TUTORIALS / "from-a-notebook.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "tumours.py").write_text(program)
    done = subprocess.run([sys.executable, "tumours.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *_, measured, outcome = done.stdout.splitlines()
    assert outcome == "simulation"
    assert float(measured.split()[0]) > 0.7
