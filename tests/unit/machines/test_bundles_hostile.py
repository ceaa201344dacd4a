import io
import random
import warnings
import zipfile

import pytest

from fedtrain.errors import AppError
from fedtrain.machines.bundles import Bundle

PROJECT = b'[project]\nname = "app"\nversion = "1.0.0"\n[tool.flwr.app]\npublisher = "north"\n'


def packed(*files, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return buffer.getvalue()


def app(*files, compression=zipfile.ZIP_DEFLATED):
    return packed(("pyproject.toml", PROJECT), *files, compression=compression)


@pytest.mark.parametrize(
    "name", ["./client.py", "clients//app.py", "clients/./app.py", "../app.py", "/etc/app.py", "a\\b.py", "a\nb.py"]
)
def test_a_name_that_could_mean_another_file_is_refused(name):
    with pytest.raises(AppError, match=r"plain form|outside of its folder"):
        Bundle.read(app(("client.py", b""), (name, b"")))


def test_one_name_twice_is_refused():
    with pytest.raises(AppError, match=r"two files of the name 'client\.py'"):
        Bundle.read(app(("client.py", b"1"), ("client.py", b"2")))


def test_a_folder_has_a_plain_name():
    assert "clients/" in Bundle.read(app(("clients/", b""), ("clients/app.py", b""))).files


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_bundle_is_refused_and_nothing_else_is_raised(compression):
    whole = app(("client.py", b"print(1)\n" * 200), compression=compression)
    draw = random.Random(compression)
    refused = 0
    with warnings.catch_warnings(action="ignore"):
        for _ in range(1500):
            damaged = bytearray(whole)
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            try:
                Bundle.read(bytes(damaged))
            except AppError:
                refused += 1
    assert refused > 500


def test_a_project_that_nests_without_end_is_refused():
    with pytest.raises(AppError, match=r"pyproject\.toml of the bundle cannot be read"):
        Bundle.read(packed(("pyproject.toml", PROJECT + b"x = " + b"[" * 100_000)))


def test_more_content_than_is_allowed_is_not_unpacked():
    with pytest.raises(AppError, match="bytes of content"):
        Bundle.read(app(*((f"{part}.json", bytes(60_000_000)) for part in "ab")))


def test_an_encrypted_file_is_refused():
    data = bytearray(app(("client.py", b"")))
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(header) + offset] |= 1
    with pytest.raises(AppError, match="not a zip file that can be read"):
        Bundle.read(bytes(data))
