import json
import re
import subprocess
import sys
from pathlib import Path

from fedtrain.privacy import SampledGaussian, epsilon_of

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "how-to" / "recompute-epsilon.md"


def test_the_program_on_the_page_computes_the_epsilons_that_the_library_claims(tmp_path):
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert "fedtrain" not in program
    (tmp_path / "recompute.py").write_text(program)

    def claim(steps):
        return epsilon_of([SampledGaussian(sampling_rate=0.5, noise_multiplier=4.0, steps=steps)], 1e-4)

    events = [
        {"client": client, "round": number, "sampling_rate": 0.5, "noise_multiplier": 4.0, "steps": 2}
        for client, rounds in ((0, (1, 2, 3)), (1, (2,)))
        for number in rounds
    ]
    clients = [{"client": client, "epsilon": claim(steps)} for client, steps in ((0, 6), (1, 2), (2, 0))]
    privacy = {"delta": 1e-4, "clients": clients, "events": events}
    (tmp_path / "report.json").write_text(json.dumps({"privacy": privacy}))

    printed = subprocess.run(
        [sys.executable, "recompute.py", "report.json"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    rows = [[float(word) for word in line.split()] for line in printed.splitlines()]
    assert [row[1] for row in rows] == [client["epsilon"] for client in clients]
    # The claim has the rounding of the transforms in it.
    assert all(0 <= row[1] - row[2] <= 1e-6 * row[1] for row in rows)
