"""The program on the page about data of one's own runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "own-data.md"


def test_the_data_set_on_the_page_is_trained_on(tmp_path):
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    (program,) = (each for each in programs if "torch.utils.data" in each)
    (tmp_path / "waves.py").write_text(program)
    done = subprocess.run([sys.executable, "waves.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) > 0.9
    assert (tmp_path / "runs" / "waves" / "report.json").is_file()
