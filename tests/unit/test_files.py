import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fedtrain.errors import StorageError
from fedtrain.files import append_line, read_lines, rewrite_lines, sync_folder, write_atomic

ROOT = Path(__file__).parents[2]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def in_process_with_file_limit(code, limit, folder):
    """Run code where no file may grow beyond the limit, as on a full disk; return what it printed."""
    program = f"""
        import resource
        from pathlib import Path
        from fedtrain.errors import StorageError
        from fedtrain.files import append_line, rewrite_lines, write_atomic
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        folder = Path({str(folder)!r})
        try:
            {code}
        except StorageError as error:
            print(error)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_write_replaces_the_file_whole(tmp_path):
    path = tmp_path / "report.json"
    write_atomic(path, b"first")
    write_atomic(path, b"second, longer" * 100_000)
    write_atomic(path, b"")
    assert path.read_bytes() == b""
    assert names(tmp_path) == ["report.json"]


def test_a_written_file_has_the_users_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    write_atomic(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_full_disk_keeps_the_previous_file_and_leaves_no_other(tmp_path):
    (tmp_path / "model").write_bytes(b"previous")
    out = in_process_with_file_limit("write_atomic(folder / 'model', bytes(100_000))", 4096, tmp_path)
    assert str(tmp_path / "model") in out
    assert "File too large; the previous file, if any, is kept" in out
    assert (tmp_path / "model").read_bytes() == b"previous"
    assert names(tmp_path) == ["model"]


def test_a_full_disk_keeps_the_lines_that_were_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_line(path, {"round": 1})
    out = in_process_with_file_limit("append_line(folder / 'metrics.jsonl', {'x': 'y' * 9000})", 4096, tmp_path)
    assert "cannot append to" in out
    assert "File too large" in out
    assert path.read_bytes() == b'{"round":1}\n'
    append_line(path, {"round": 2})
    assert read_lines(path) == [{"round": 1}, {"round": 2}]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_keeps_the_previous_file(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "report.json").write_bytes(b"previous")
    folder.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="Permission denied"):
            write_atomic(folder / "report.json", b"new")
    finally:
        folder.chmod(0o700)
    assert (folder / "report.json").read_bytes() == b"previous"
    assert names(folder) == ["report.json"]


def test_a_path_that_cannot_be_a_file_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "folder", tmp_path / "missing" / "x", tmp_path / "file" / "x"):
        with pytest.raises(StorageError) as raised:
            write_atomic(path, b"new")
        assert f"cannot write {path}: " in str(raised.value)
    assert names(tmp_path) == ["file", "folder"]


def test_ctrl_c_while_writing_leaves_no_temporary_file(tmp_path):
    program = """
        import signal, sys
        from pathlib import Path
        from fedtrain.files import write_atomic
        path = Path(sys.argv[1]) / "model"
        def interrupt(number, frame): raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        for delay in range(1, 21):
            write_atomic(path, b"previous")
            try:
                signal.setitimer(signal.ITIMER_REAL, delay / 1000)
                while True: write_atomic(path, bytes(4_000_000))
            except KeyboardInterrupt:
                assert path.stat().st_size in {8, 4_000_000}
                assert list(path.parent.iterdir()) == [path]
        print("interrupted")
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "interrupted\n"


def test_a_file_system_without_folder_synchronization_is_no_error():
    with pytest.raises(OSError, match="Invalid argument"), Path("/proc/self/cmdline").open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(Path("/proc"))


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(StorageError, match="may not survive a power failure"):
        sync_folder(tmp_path / "missing")


def test_lines_are_appended_and_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_lines(path) == []
    records = [{"round": 1, "loss": 0.1}, {"name": "größer\nals"}, {}]
    for record in records:
        append_line(path, record)
    assert read_lines(path) == records
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("torn", [b'{"round":2', b"\0\0\0", b"x" * 200_000])
def test_a_torn_last_line_is_ignored_and_then_removed(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"round":1}\n' + torn)
    assert read_lines(path) == [{"round": 1}]
    append_line(path, {"round": 2})
    assert path.read_bytes() == b'{"round":1}\n{"round":2}\n'


def test_a_file_that_is_one_torn_line_begins_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"x" * 70_000)
    append_line(path, {"round": 1})
    assert path.read_bytes() == b'{"round":1}\n'


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"x":NaN}', b"", b"\xff"])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"{}\n" + line + b"\n{}\n")
    with pytest.raises(StorageError, match=f"{path}, line 2, is not"):
        read_lines(path)


@pytest.mark.parametrize("record", [{"x": float("nan")}, {"x": float("inf")}, {"x": object()}, {"x": "\ud800"}])
def test_what_is_not_json_is_refused_and_the_lines_are_kept(tmp_path, record):
    path = tmp_path / "metrics.jsonl"
    append_line(path, {"round": 1})
    for write in (append_line, lambda path, record: rewrite_lines(path, [record])):
        with pytest.raises(StorageError, match="its previous lines are kept"):
            write(path, record)
        assert read_lines(path) == [{"round": 1}]


def test_lines_are_rewritten_from_an_earlier_round(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for number in range(5):
        append_line(path, {"round": number})
    rewrite_lines(path, [record for record in read_lines(path) if record["round"] < 3])
    append_line(path, {"round": 3})
    assert [record["round"] for record in read_lines(path)] == [0, 1, 2, 3]
    assert [json.loads(line) for line in path.read_text().splitlines()] == read_lines(path)


def test_a_file_of_lines_that_cannot_be_opened_is_named(tmp_path):
    for use in (read_lines, lambda path: append_line(path, {})):
        with pytest.raises(StorageError, match=str(tmp_path)):
            use(tmp_path)
