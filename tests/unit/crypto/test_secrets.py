import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fedtrain.crypto import Identity
from fedtrain.crypto.secrets import read_or_create_secret, read_secret
from fedtrain.errors import KeyFileError, StorageError

ROOT = Path(__file__).parents[3]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def run(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "new" / "folder" / "key"
    previous = os.umask(0)
    try:
        assert read_or_create_secret(path, lambda: b"first") == b"first"
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_create_secret(path, lambda: b"second") == b"first"
    assert read_secret(path) == b"first"
    assert names(path.parent) == ["key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o660, 0o644, 0o601])
def test_a_secret_that_others_can_use_is_refused(tmp_path, mode):
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"mode {mode:04o}.*chmod 600 {path}"):
        read_secret(path)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_or_create_secret(path, lambda: b"other")
    assert path.read_bytes() == b"secret"
    path.chmod(0o400)
    assert read_secret(path) == b"secret"


def test_what_is_no_key_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe", 0o600)
    large = tmp_path / "large"
    large.write_bytes(bytes(65537))
    large.chmod(0o600)
    for path, why in (
        (tmp_path / "missing", "there is no key file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / "file" / "key", "Not a directory"),
        (large, "larger than any key"),
    ):
        with pytest.raises(KeyFileError, match=why):
            read_secret(path)


def test_a_link_to_nothing_is_not_followed_to_make_a_secret(tmp_path):
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="there is no key file"):
        read_or_create_secret(tmp_path / "key", lambda: b"secret")
    assert names(tmp_path) == ["key"]


def test_processes_that_make_a_key_at_once_get_the_same(tmp_path):
    program = """
        import sys, time
        from pathlib import Path
        from fedtrain.crypto import Identity
        folder = Path(sys.argv[1])
        print("ready", flush=True)
        while not (folder / "go").exists(): pass
        for number in range(40): print(Identity.load_or_create(folder / "keys" / str(number)).public.key_id)
        """
    processes = [run(program, tmp_path) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    printed = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert printed[0] == printed[1] == printed[2]
    assert len(set(printed[0])) == 40
    assert names(tmp_path / "keys") == sorted(map(str, range(40)))


def test_a_process_killed_while_it_makes_keys_leaves_each_whole(tmp_path):
    program = """
        import sys
        from pathlib import Path
        from fedtrain.crypto import Identity
        for number in range(100_000):
            Identity.load_or_create(Path(sys.argv[1]) / str(number))
            if number == 20: print("going", flush=True)
        """
    process = run(program, tmp_path)
    assert process.stdout.readline() == "going\n"
    process.kill()
    process.communicate()
    keys = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert len({Identity.load(path).public.key for path in keys}) == len(keys) > 20
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


def test_a_full_disk_leaves_no_key(tmp_path):
    program = """
        import resource, sys
        from pathlib import Path
        from fedtrain.crypto import Identity
        from fedtrain.errors import StorageError
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
        try: Identity.load_or_create(Path(sys.argv[1]) / "key")
        except StorageError as error: print(error)
        """
    out, _ = run(program, tmp_path).communicate(timeout=60)
    assert f"cannot write the key file {tmp_path / 'key'}: File too large" in out
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        read_or_create_secret(folder / "key", lambda: b"secret")
    folder.chmod(0o000)
    with pytest.raises(KeyFileError, match="Permission denied"):
        read_or_create_secret(folder / "key", lambda: b"secret")
    folder.chmod(0o700)
    assert names(folder) == []


def test_a_key_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    long = tmp_path / "folder" / ("x" * 250)
    with pytest.raises(StorageError, match=f"cannot write the key file {long}: File name too long"):
        read_or_create_secret(long, lambda: b"secret")
    assert names(tmp_path / "folder") == []
