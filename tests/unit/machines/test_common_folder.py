import fcntl
import os
import re
import shutil
import stat
import subprocess
import sys

import pytest

from fedtrain.errors import StorageError
from fedtrain.machines.common_folder import marked, token_of


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_who_sees_the_servers_folder_reads_what_lies_in_it(tmp_path):
    with marked(tmp_path / "sites") as marker:
        assert token_of(tmp_path / "sites", marker.name) == marker.token
        assert len(marker.token) == len(marker.name) == 32
        assert marker.token != marker.name


def test_nothing_is_left_of_it(tmp_path):
    with marked(tmp_path / "sites") as marker:
        (file,) = files(tmp_path / "sites")
        assert stat.S_IMODE((tmp_path / "sites" / file).stat().st_mode) == 0o600
    assert files(tmp_path) == []
    (tmp_path / "sites" / "client-0000").mkdir(parents=True)
    with pytest.raises(StorageError, match="is not the server's folder"):
        token_of(tmp_path / "sites", marker.name)
    with marked(tmp_path / "sites"):
        pass
    assert files(tmp_path / "sites") == ["client-0000"]


def test_several_servers_use_one_folder_at_once(tmp_path):
    with marked(tmp_path) as one, marked(tmp_path) as two:
        assert token_of(tmp_path, one.name) == one.token
        assert token_of(tmp_path, two.name) == two.token
    assert files(tmp_path) == []


def test_another_folder_of_the_same_name_is_refused_with_where_it_is(tmp_path):
    (tmp_path / "other").mkdir()
    with marked(tmp_path / "sites") as marker:
        where = re.escape(f"{tmp_path / 'other'} on {os.uname().nodename} is not the server's folder")
        with pytest.raises(StorageError, match=where):
            token_of(tmp_path / "other", marker.name)


def test_a_copy_is_refused_since_nobody_holds_it(tmp_path):
    with marked(tmp_path / "sites") as marker:
        shutil.copytree(tmp_path / "sites", tmp_path / "copy")
        with pytest.raises(StorageError, match="is a copy of the server's folder, or its locks hold for one machine"):
            token_of(tmp_path / "copy", marker.name)


def test_two_that_look_at_a_copy_at_once_are_both_refused(tmp_path):
    with marked(tmp_path / "sites") as marker:
        shutil.copytree(tmp_path / "sites", tmp_path / "copy")
        (file,) = (tmp_path / "copy").iterdir()
        with file.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_SH)
            with pytest.raises(StorageError, match="is a copy"):
                token_of(tmp_path / "copy", marker.name)


def test_what_a_killed_server_left_is_not_a_servers_folder(tmp_path):
    program = (
        "import os, pathlib, sys\n"
        "from fedtrain.machines.common_folder import marked\n"
        "with marked(pathlib.Path(sys.argv[1])) as marker:\n"
        "    print(marker.name, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True, check=False)
    assert killed.returncode == -9
    with pytest.raises(StorageError, match="is a copy of the server's folder, or its locks"):
        token_of(tmp_path, killed.stdout.strip())


@pytest.mark.parametrize("name", ["", "../secret", "a" * 31, "A" * 32, "0" * 32 + "\n"])
def test_no_other_file_can_be_asked_for(tmp_path, name):
    with pytest.raises(StorageError, match="names no file of its own"):
        token_of(tmp_path, name)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match="cannot write in the folder of the clients"),
        marked(tmp_path / "file" / "x"),
    ):
        pass
