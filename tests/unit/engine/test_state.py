import shutil

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedtrain.engine.state import Spool, StateFiles, decode_state, encode_state
from fedtrain.errors import StorageError

COUNTS = """
@app.train()
def train(message, context):
    count = context.state["counter"]["count"] if "counter" in context.state else 0
    if message.metadata.group_id != "look":
        context.state["counter"] = MetricRecord({"count": count + 1})
    if message.metadata.group_id == "fail":
        raise RuntimeError("planted")
    time.sleep(0.01)
    return Message(RecordDict({"m": MetricRecord({"count": count})}), reply_to=message)
"""


def counts(replies):
    return [reply.content["m"]["count"] for reply in replies]


def test_state_lasts_from_message_to_message_for_each_node_alone(make_grid, messages):
    grid = make_grid(COUNTS)
    assert counts(grid.send_and_receive(messages([0, 1, 2]))) == [0, 0, 0]
    assert counts(grid.send_and_receive(messages([2, 3, 1]))) == [1, 0, 1]
    assert counts(grid.send_and_receive(messages([0, 1, 2, 3]))) == [1, 2, 2, 1]


def test_messages_of_one_node_run_one_after_another(make_grid, messages):
    grid = make_grid(COUNTS)
    assert counts(grid.send_and_receive(messages([1] * 6 + [2] * 3))) == [0, 1, 2, 3, 4, 5, 0, 1, 2]


def test_the_state_of_a_failed_message_is_not_kept(make_grid, messages):
    grid = make_grid(COUNTS)
    assert grid.send_and_receive(messages([1], group_id="fail"))[0].has_error()
    assert counts(grid.send_and_receive(messages([1]))) == [0]


def test_state_survives_in_a_state_dir(make_grid, messages, tmp_path):
    folder = tmp_path / "states" / "here"
    with make_grid(COUNTS, state_dir=folder) as grid:
        grid.send_and_receive(messages([1, 1, 2]))
    assert sorted(path.name for path in folder.glob("1*")) == ["1001.state", "1002.state"]
    grid = make_grid(COUNTS, state_dir=folder)
    assert counts(grid.send_and_receive(messages([1, 2, 3]))) == [2, 1, 0]


def test_state_is_written_only_when_it_changed(make_grid, messages, tmp_path):
    grid = make_grid(COUNTS, state_dir=tmp_path / "states")
    grid.send_and_receive(messages([1]))
    before = (tmp_path / "states" / "1001.state").stat()
    assert counts(grid.send_and_receive(messages([1, 2], group_id="look"))) == [1, 0]
    after = (tmp_path / "states" / "1001.state").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert not (tmp_path / "states" / "1002.state").exists()


def test_a_damaged_state_is_an_error_reply_that_names_the_file(make_grid, messages, tmp_path):
    folder = tmp_path / "states"
    folder.mkdir()
    (folder / "1001.state").write_bytes(b"FTS1 damaged in some way")
    grid = make_grid(COUNTS, state_dir=folder)
    bad, good = grid.send_and_receive(messages([1, 2]))
    assert "1001.state is damaged" in bad.error.reason
    assert good.has_content()


def test_a_state_dir_has_one_user_at_a_time(make_grid, tmp_path):
    make_grid(COUNTS, state_dir=tmp_path)
    with pytest.raises(StorageError, match="another run uses the client states"):
        make_grid(COUNTS, state_dir=tmp_path)


def test_what_is_staged_counts_only_after_its_commit(tmp_path):
    spool = Spool(tmp_path, durable=True)
    worker = StateFiles(tmp_path, durable=True)
    worker.stage(7, 1, b"first")
    assert worker.read(7) == b""
    spool.commit(7, 1)
    worker.stage(7, 2, b"second")
    spool.drop(7, 2)
    spool.drop(7, 3)
    assert worker.read(7) == b"first"
    with pytest.raises(StorageError, match="node 7"):
        spool.commit(7, 2)
    worker.stage(7, 4, b"left behind")
    spool.close()
    Spool(tmp_path, durable=True).close()
    assert sorted(path.name for path in tmp_path.glob("7*")) == ["7.state"]


def test_a_state_is_encoded_and_decoded():
    state = RecordDict({"a": MetricRecord({"x": [1.5, 2.5]}), "b": ConfigRecord({"s": "text"})})
    assert decode_state(encode_state(state)) == state
    assert encode_state(RecordDict()) == b""
    with pytest.raises(StorageError, match="cannot be decoded"):
        decode_state(b"\xff\xff")


def test_a_spool_that_was_not_used_leaves_nothing_and_one_that_was_keeps_its_files(tmp_path):
    folder = tmp_path / "runs" / "x" / "clients"
    first = Spool(folder, durable=True)
    with pytest.raises(StorageError, match="another run uses the client states"):
        Spool(folder, durable=True)
    first.close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    Spool(folder, durable=True).close()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    used = Spool(folder, durable=True)
    used.stage(1, 1, b"state")
    used.commit(1, 1)
    used.close()
    assert sorted(path.name for path in folder.iterdir()) == ["1.state", "lock"]
    Spool(folder, durable=True).close()
    assert (folder / "1.state").exists()


def test_a_spool_whose_folder_is_gone_is_closed_all_the_same(tmp_path):
    spool = Spool(tmp_path / "states", durable=False)
    shutil.rmtree(tmp_path / "states")
    spool.close()
    assert list(tmp_path.iterdir()) == []
