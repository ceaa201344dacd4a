import os
import resource
from contextlib import contextmanager

import pytest

from fedtrain.errors import StorageError
from fedtrain.ledger.journal import Journal


@pytest.fixture
def paths(tmp_path):
    return tmp_path / "lines", tmp_path / "intent"


@contextmanager
def disk_of(size):
    """Let no file grow beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def calls(monkeypatch):
    """The writes and synchronizations that reach the operating system, by the name of the file."""
    seen = []

    def watched(name, function):
        def call(descriptor, *rest):
            seen.append((name, os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))  # noqa: PTH115, PTH119
            return function(descriptor, *rest)

        monkeypatch.setattr(os, name, call)

    for name in ("pwrite", "fsync"):
        watched(name, getattr(os, name))
    return seen


def test_the_intent_is_on_the_disk_before_the_line_and_the_line_before_the_return(paths, tmp_path, calls):
    Journal(*paths).append(b"first\n")
    assert calls == [
        ("pwrite", "intent"),
        ("fsync", "intent"),
        ("fsync", tmp_path.name),
        ("pwrite", "lines"),
        ("fsync", "lines"),
        ("fsync", tmp_path.name),
    ]
    calls.clear()
    Journal(*paths).append(b"second\n")
    assert calls == [("pwrite", "intent"), ("fsync", "intent"), ("pwrite", "lines"), ("fsync", "lines")]


def test_what_completes_a_line_is_on_the_disk_before_the_return(paths, tmp_path, calls):
    journal = Journal(*paths)
    journal.complete(b"first\n")
    assert calls == [("pwrite", "lines"), ("fsync", "lines"), ("fsync", tmp_path.name)]
    journal.append(b"second\n")
    assert paths[0].read_bytes() == b"first\nsecond\n"


def test_files_are_read(paths):
    assert Journal(*paths).content == Journal(*paths).content
    paths[0].write_bytes(b"a\n\nb\nc")
    paths[1].write_bytes(b"cde\n")
    content = Journal(*paths).content
    assert (content.lines, content.tail, content.intent) == ((b"a\n", b"\n", b"b\n"), b"c", b"cde\n")


def test_a_shorter_intent_replaces_a_longer_one_whole(paths):
    journal = Journal(*paths)
    journal.append(b"a long line\n")
    journal.append(b"short\n")
    assert paths[1].read_bytes() == b"short\n"


@pytest.mark.parametrize("size", [12, 13, 20])
def test_a_full_disk_takes_back_the_line_and_the_intent(paths, size):
    journal = Journal(*paths)
    journal.append(b"x" * 11 + b"\n")
    with disk_of(size), pytest.raises(StorageError, match="File too large; its previous lines are kept"):
        journal.append(b"y" * 11 + b"\n")
    assert paths[0].read_bytes() == b"x" * 11 + b"\n"
    assert paths[1].read_bytes() == b""
    journal.append(b"z\n")
    assert Journal(*paths).content.lines == (b"x" * 11 + b"\n", b"z\n")


def test_a_disk_too_full_for_the_intent_leaves_the_lines(paths):
    journal = Journal(*paths)
    journal.append(b"x\n")
    with disk_of(4), pytest.raises(StorageError, match="File too large"):
        journal.append(b"y" * 11 + b"\n")
    assert paths[0].read_bytes() == b"x\n"
    assert paths[1].read_bytes() == b""
    journal.append(b"z\n")
    assert paths[0].read_bytes() == b"x\nz\n"


def test_an_interruption_takes_back_the_line(paths, monkeypatch):
    journal = Journal(*paths)
    journal.append(b"x\n")
    sync, left = os.fsync, [1]

    def interrupted(descriptor):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append(b"y\n")
    monkeypatch.undo()
    assert paths[0].read_bytes() == b"x\n"
    assert paths[1].read_bytes() == b""
    journal.append(b"z\n")
    assert paths[0].read_bytes() == b"x\nz\n"
