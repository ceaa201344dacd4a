import random
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict

COUNTS = """
@app.train()
def train(message, context):
    count = context.state["s"]["count"] if "s" in context.state else 0
    context.state["s"] = MetricRecord({"count": count + 1})
    context.state["big"] = ArrayRecord([np.zeros(2000)])
    metrics = MetricRecord({"count": count, "partition": context.node_config["partition-id"]})
    return Message(RecordDict({"a": message.content["a"], "m": metrics}), reply_to=message)
"""


def resident_kilobytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_rounds_or_nodes_seen(make_grid, messages):
    grid = make_grid(COUNTS, nodes=10_000)
    draw = random.Random(0)
    content = RecordDict({"a": ArrayRecord([np.zeros(20_000, np.float32)])})
    times = dict.fromkeys(range(10_000), 0)

    def play(rounds):
        for _ in range(rounds):
            nodes = draw.sample(range(10_000), 50)
            for node, reply in zip(nodes, grid.send_and_receive(messages(nodes, content)), strict=True):
                metrics = reply.content["m"]
                assert (metrics["partition"], metrics["count"]) == (node, times[node])
                times[node] += 1

    play(10)
    before = resident_kilobytes()
    play(60)  # 3,000 messages: 48 MB of states, 240 MB of arrays
    assert resident_kilobytes() - before < 8_000
    assert len(list(grid._directories[0].iterdir())) < 20  # files in shared memory


def test_all_of_ten_thousand_nodes_answer_in_one_push(make_grid, messages):
    grid = make_grid(
        "@app.train()\ndef train(message, context):\n    return Message(RecordDict(), reply_to=message)\n", nodes=10_000
    )
    nodes = range(0, 10_000, 5)
    replies = grid.send_and_receive(messages(nodes))
    assert [reply.metadata.src_node_id - 1000 for reply in replies] == list(nodes)
    assert len(grid.get_node_ids()) == 10_000
