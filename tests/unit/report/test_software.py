from hashlib import sha256

from fedtrain.report.software import source_digest


def test_the_digest_is_of_the_python_files_and_their_names(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_bytes(b"x = 1\n")
    (tmp_path / "inner" / "b.py").write_bytes(b"")
    code, empty = sha256(b"x = 1\n").hexdigest(), sha256(b"").hexdigest()
    listed = f'{{"a.py":"{code}","inner/b.py":"{empty}"}}'
    first = source_digest(tmp_path)
    assert first == sha256(listed.encode()).hexdigest()
    (tmp_path / "notes.txt").write_text("not code")
    assert source_digest(tmp_path) == first
    (tmp_path / "inner" / "b.py").rename(tmp_path / "inner" / "c.py")
    assert source_digest(tmp_path) != first
