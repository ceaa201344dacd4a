"""Processes that the user's code starts in a worker: as in any program."""

import multiprocessing
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

LOADER = """
import multiprocessing
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, get_worker_info

class Numbers(IterableDataset):
    def __iter__(self):
        info = get_worker_info()
        return iter(range(info.id, 8, info.num_workers))

def batches(of):
    rows = TensorDataset(torch.arange(8)) if of == "map" else Numbers()
    # A lambda, as users write it: nothing that another start method could send.
    collate = lambda items: [int(item[0]) if of == "map" else item for item in items]
    return [row for batch in DataLoader(rows, batch_size=2, num_workers=2, collate_fn=collate) for row in batch]

@app.train()
def train(message, context):
    for _ in range(2):
        rows = batches(message.metadata.group_id)
    facts = ConfigRecord({
        "rows": sorted(rows),
        "method": multiprocessing.get_start_method(),
        "daemon": multiprocessing.current_process().daemon,
    })
    return Message(RecordDict({"facts": facts}), reply_to=message)
"""


@pytest.mark.parametrize("kind", ["map", "iterable"])
def test_a_data_loader_with_workers_and_a_lambda(make_grid, messages, kind):
    (reply,) = make_grid(LOADER, workers=1, preload=("torch",)).send_and_receive(messages([0], group_id=kind))
    assert not reply.has_error(), reply.error.reason
    facts = reply.content["facts"]
    assert facts["rows"] == list(range(8))
    assert facts["method"] == multiprocessing.get_all_start_methods()[0]
    assert not facts["daemon"]


HELD = """
import multiprocessing

@app.train()
def train(message, context):
    held = multiprocessing.get_context({context!r}).Semaphore()
    (Path(os.environ["HELD"]) / str(os.getpid())).touch()
    time.sleep(600)
"""

SCRIPT = """
import sys, time
from pathlib import Path
from flwr.app import Message, RecordDict
from fedtrain.engine import LocalGrid

grid = LocalGrid(
    client_app="client:app", app_dir=Path(sys.argv[1]), run_config={}, nodes=2, workers=2, preload=()
)
grid.push_messages([Message(RecordDict(), 1000 + node, "train") for node in range(2)])
while len(list(Path(sys.argv[2]).iterdir())) < 2:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("context", [None, "forkserver"])
def test_busy_workers_end_in_silence(write_app, tmp_path, monkeypatch, context):
    held = tmp_path / "held"
    held.mkdir()
    monkeypatch.setenv("HELD", str(held))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = write_app("from pathlib import Path\n" + textwrap.dedent(HELD.format(context=context)))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, script, folder, held], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
