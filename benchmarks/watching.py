"""What it costs to watch: `fedtrain server status`, and its live page, while a run of many nodes goes on.

    python benchmarks/watching.py [--nodes N] [--seconds N] [--open N] [--repeat N]

A server's folder is as `fedtrain server up` and a run keep it: the file of the nodes is written anew every 3 s, and the
run's events by its own writer, each answer of each node one line, and a round every 10 s. The command prints the status
in a process of its own, imports included: seconds of the wall and of the processor, medians. Its page is then served in
another process, and asked every 2 s by as many readers as ``--open`` says, as an open page does. What it costs is the
processor's time of that process over that of the wall, from when the page is there on.

A status that does not show all nodes, and an answer that does not show the round that was written last, are errors.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import httpx
from proof import require

from fedtrain.deployment.processes import only_one
from fedtrain.machines import ServerFolder
from fedtrain.machines.nodes import Nodes, NodeState, write_nodes
from fedtrain.provision.operator import OperatorFolder
from fedtrain.status import FILE, Answered, Asked, Begun, Done, EventLog

COMMAND = [sys.executable, "-c", "from fedtrain.cli import main; main()", "server", "status"]
BETWEEN_NODES, BETWEEN_ROUNDS, BETWEEN_LOOKS = 3.0, 10.0, 2.0  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="for which the page is open")
    parser.add_argument("--open", type=int, default=1, help="readers of the page")
    parser.add_argument("--repeat", type=int, default=5, help="runs of the command")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = OperatorFolder.create(
            Path(folder) / "federation", address="127.0.0.1:9092", names=(), days=30, now=datetime.now(UTC)
        )
        run = Run(made.server, nodes=arguments.nodes)
        with only_one(made.server.path), run:  # as `fedtrain server up` holds it
            wall, processor = command(made.server, nodes=arguments.nodes, repeat=arguments.repeat)
            print(f"status of {arguments.nodes} nodes   {wall:6.2f} s  {processor:6.2f} s of the processor")
            spent, answers, size = page(run, seconds=arguments.seconds, readers=arguments.open)
    print(
        f"page, {arguments.open} open, {answers} answers of {size / 1e3:.0f} kB in {arguments.seconds:.0f} s: "
        f"{spent:.2f} s of the processor, {100 * spent / arguments.seconds:.2f} % of a core"
    )


class Run:
    """A run that goes on, and the file of its server's nodes."""

    def __init__(self, server: ServerFolder, *, nodes: int) -> None:
        self.server, self.nodes, self.round = server, nodes, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on)

    def __enter__(self) -> Self:
        (self.server.path / "run").mkdir(exist_ok=True)
        (self.server.runs / "now").mkdir(parents=True)
        self._log = EventLog(self.server.runs / "now" / FILE)
        names = {client: f"hospital-{client:03d}" for client in range(self.nodes)}
        self._log.begin(
            Begun(
                time=time.time(),
                name="digits",
                mode="record",
                rounds=1000,
                done=0,
                clients=self.nodes,
                deadline=60.0,
                names=names,
                epsilon=4.0,
                delta=1e-4,
                budgets=dict.fromkeys(names, 8.0),
                spent=dict.fromkeys(names, 0.0),
                reached=0.0,
                metric="accuracy",
                baseline=0.1,
            )
        )
        self._states = tuple(
            NodeState(name=name, client=client, state="connected", since=time.time(), seen=time.time())
            for client, name in names.items()
        )
        write_nodes(self.server, Nodes(time=time.time(), nodes=self._states))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._log.close()

    def _go_on(self) -> None:
        clients = tuple(range(self.nodes))
        written = time.monotonic()
        while True:
            begun = time.time()
            self._log.append(Asked(time=begun, round=self.round + 1, clients=self.nodes, cohort=clients))
            for client in clients:
                if self._ended.wait(BETWEEN_ROUNDS / self.nodes):
                    return
                if time.monotonic() - written > BETWEEN_NODES:
                    written = time.monotonic()
                    write_nodes(self.server, Nodes(time=time.time(), nodes=self._states))
                answered = Answered(time=begun, round=self.round + 1, answered=client + 1, client=client)
                self._log.append(answered)
            spent = dict.fromkeys(clients, 0.01 * (self.round + 1))
            self.round += 1
            self._log.append(
                Done(
                    time=time.time(),
                    round=self.round,
                    clients=self.nodes,
                    completed=self.nodes,
                    seconds=time.time() - begun,
                    value=0.5,
                    epsilon=0.01 * self.round,
                    spent=spent,
                )
            )


def command(server: ServerFolder, *, nodes: int, repeat: int) -> tuple[float, float]:
    """Return the seconds that the command takes, of the wall and of the processor."""
    walls, processors = [], []
    for _ in range(repeat):
        before, began = used(), time.perf_counter()
        shown = subprocess.run([*COMMAND, str(server.path)], check=True, capture_output=True, text=True).stdout
        walls.append(time.perf_counter() - began)
        processors.append(used() - before)
        require(f"{nodes} of {nodes} are connected" in shown, f"the status does not show all nodes:\n{shown}")
        require("run now" in shown, f"the status does not show the run:\n{shown}")
    return statistics.median(walls), statistics.median(processors)


def used() -> float:
    """Return the seconds of the processor that programs took which have ended."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def page(run: Run, *, seconds: float, readers: int) -> tuple[float, int, int]:
    """Return the seconds of the processor that a page takes, how many answers it gave, and the bytes of the last."""
    served = subprocess.Popen([*COMMAND, str(run.server.path), "--web"], stdout=subprocess.PIPE, text=True)
    assert served.stdout is not None
    try:
        found = re.match(r"(http://\S+/)#(\S+)", served.stdout.readline())
        require(found is not None, "the page has no address")
        assert found is not None
        address, token = found.groups()
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, trust_env=False) as client:
            # What a reader opens, before the time counts.
            for file in ("", "page.js", "page.css", "status"):
                client.get(file).raise_for_status()
            before, began, answers = taken(served.pid), time.monotonic(), 0
            while time.monotonic() - began < seconds:
                for _ in range(readers):
                    round_before = run.round
                    answer = client.get("status").raise_for_status()
                    shown = json.loads(answer.content)
                    require(len(shown["nodes"]) == run.nodes, "the page does not show all nodes")
                    require(shown["runs"][0]["done"] >= round_before - 1, "the page shows an old round")
                    answers += 1
                time.sleep(BETWEEN_LOOKS)
            after, passed = taken(served.pid), time.monotonic() - began
            return (after - before) * seconds / passed, answers, len(answer.content)
    finally:
        served.terminate()
        served.wait()


def taken(process: int) -> float:
    """Return the seconds of the processor that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
