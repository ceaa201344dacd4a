from pathlib import Path

import pytest

from fedtrain.engine.arena import (
    ReadableFile,
    Region,
    create_directories,
    issue_ticket,
    remove_directories,
    remove_file,
    take_ticket,
    write_file,
)
from fedtrain.errors import StorageError


def test_parts_are_written_one_after_another_and_overwritten_in_place(tmp_path):
    parts = [bytes([index % 256]) * (index % 5) for index in range(3000)]
    assert write_file([tmp_path], "f", parts) == 0
    assert (tmp_path / "f").read_bytes() == b"".join(parts)
    inode = (tmp_path / "f").stat().st_ino
    write_file([tmp_path], "f", [b"short", b"", b"er"])
    assert (tmp_path / "f").read_bytes() == b"shorter"
    assert (tmp_path / "f").stat().st_ino == inode


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_directory_is_passed_over(tmp_path):
    full, large = tmp_path / "full", tmp_path / "large"
    for folder in (full, large):
        folder.mkdir()
    (full / "f").symlink_to("/dev/full")
    assert write_file([full, large], "f", [b"x" * 11]) == 1
    assert (large / "f").read_bytes() == b"x" * 11
    assert not (full / "f").is_symlink()
    (full / "f").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"11 bytes cannot be written .*No space left"):
        write_file([full], "f", [b"x" * 11])


def test_regions_outside_the_file_are_refused(tmp_path):
    write_file([tmp_path], "f", [b"0123456789"])
    file = ReadableFile(tmp_path / "f")
    assert file.read(Region(offset=3, length=4)) == b"3456"
    assert file.read(Region(offset=10, length=0)) == b""
    for offset, length in [(3, 8), (2**60, 1), (-1, 2), (0, 2**62), (5, -1)]:
        with pytest.raises(StorageError, match="of a file of 10 bytes"):
            file.read(Region(offset=offset, length=length))
    file.close()


def test_a_missing_file_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot be read"):
        ReadableFile(tmp_path / "missing")
    remove_file(tmp_path / "missing")


def test_a_ticket_is_taken_once(tmp_path):
    issue_ticket(tmp_path, 5)
    assert take_ticket(tmp_path, 5)
    assert not take_ticket(tmp_path, 5)


def test_directories_are_private_and_go_away(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    directories = create_directories()
    assert directories[-1].parent == tmp_path
    assert all(directory.stat().st_mode & 0o777 == 0o700 for directory in directories)
    remove_directories(directories)
    assert not any(directory.exists() for directory in directories)


def test_without_shared_memory_there_is_the_disk(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("fedtrain.engine.arena._SHARED_MEMORY", tmp_path / "missing")
    (directory,) = create_directories()
    assert directory.parent == tmp_path


def test_an_unusable_temporary_directory_is_a_storage_error(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(StorageError, match="missing"):
        create_directories()
