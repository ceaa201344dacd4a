"""The notebook of the documentation, executed by a real kernel, and what only a kernel can show."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "examples" / "notebook.ipynb"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Give a function that executes cells in a kernel of their own, in an empty folder, and returns them."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FEDTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "jupyter"))

    def execute(notebook):
        client = NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
        return [cell for cell in notebook.cells if cell.cell_type == "code"]

    return execute


def shown(cell):
    """Return all text that a cell shows, whichever way it got there."""
    texts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs]
    return "\n".join(texts)


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_of_the_documentation_runs(execute, tmp_path):
    cells = execute(nbformat.read(NOTEBOOK, as_version=4))
    training = next(cell for cell in cells if "simulate(" in cell.source and "run =" in cell.source)
    # One display that was drawn again and again, and no line for each round.
    (_,) = [output for output in training.outputs if output.output_type == "display_data"]
    assert not any("round" in output.text for output in training.outputs if output.output_type == "stream")
    assert "round 3/3  clients 4/4  accuracy" in shown(training)
    assert "report: runs/notebook/report.html" in shown(training)
    assert "Simulation: protects nobody, since its noise is seeded. Its numbers are consistent" in shown(cells[-1])
    assert (tmp_path / "runs" / "notebook" / "report.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_interrupt_of_the_kernel_leaves_a_folder_to_go_on_in(execute):
    head = nbformat.read(NOTEBOOK, as_version=4).cells[1:7:2]  # imports, experiment, task
    stop = """
import os, signal, threading
from fedtrain import ClientDone, load_run

def interrupt(event):  # what the stop button of a front end does, from another thread, in the middle of round 2
    if isinstance(event, ClientDone) and event.round == 2:
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()

records = replace(open_store(Experiment().data, seed=0), folder=None)
again = dict(task=Digits, data=records, workers=2)
try:
    simulate(experiment, out="runs/stopped", on_event=interrupt, **again)
except KeyboardInterrupt:
    stopped = load_run("runs/stopped").report.status
stopped
"""
    go_on = 'simulate(experiment, out="runs/stopped", resume=True, **again).report.status'
    cells = [*head, nbformat.v4.new_code_cell(stop), nbformat.v4.new_code_cell(go_on)]
    *_, stopped, resumed = execute(nbformat.v4.new_notebook(cells=cells))
    assert "'interrupted'" in shown(stopped)
    assert "resume=True" in shown(stopped)
    assert "'completed'" in shown(resumed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_loop_of_the_kernel_goes_on_while_a_thread_simulates(execute):
    head = nbformat.read(NOTEBOOK, as_version=4).cells[1:7:2]
    body = """
import asyncio

ticks = 0

async def tick():
    global ticks
    while True:
        ticks += 1
        await asyncio.sleep(0.01)

ticking = asyncio.create_task(tick())
run = await asyncio.to_thread(simulate, experiment, out="runs/thread", task=Digits)
ticking.cancel()
run.report.status, ticks > 3
"""
    cells = execute(nbformat.v4.new_notebook(cells=[*head, nbformat.v4.new_code_cell(body)]))
    assert "('completed', True)" in shown(cells[-1])
