"""App bundles: what is in one, and which ones a site allows to run on its node.

A bundle (Flower's FAB) is a zip file of an app's source. It comes from the server, so that the code which trains on a
site's records is somebody else's until the site has looked at it.
"""

import io
import json
import lzma
import tomllib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Self

from fedtrain.errors import AppError, SiteError, StorageError
from fedtrain.files import write_atomic

SCHEMA = "fedtrain.approved/1"

_LARGEST = 10_000_000  # bytes, as Flower has it
_LARGEST_CONTENT = 100_000_000  # bytes, unpacked
_PLAIN = {".py", ".toml", ".md", ".yaml", ".yml", ".json", ".txt", ".jsonl"}
# What Flower adds by itself: a list of the files, and the licence.
_OTHERS = {"CONTENT", "LICENSE"}
# What zipfile raises where a file is not what it should be.
_DAMAGED = (
    zipfile.BadZipFile,
    NotImplementedError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    zlib.error,
    lzma.LZMAError,
)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What is in a bundle.

    Attributes:
        sha256: of the bundle's bytes, in hexadecimal: the SuperNode compares it.
        name: publisher, name and version, as the app's ``pyproject.toml`` has them.
        files: the content of each file.
        data: its bytes.
    """

    sha256: str
    name: str
    files: Mapping[str, bytes]
    data: bytes

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Read a bundle.

        Raises:
            AppError: it is too large, no zip file, or has a file named twice or outside of its folder, or has no
                ``pyproject.toml`` that says what app it is.
        """
        if len(data) > _LARGEST:
            raise AppError(f"the bundle has {len(data)} bytes, and Flower takes {_LARGEST} at most")
        files: dict[str, bytes] = {}
        left = _LARGEST_CONTENT
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for entry in archive.infolist():
                    _check_name(entry, files)
                    # The size in the directory is what somebody wrote: no more than is allowed is unpacked.
                    with archive.open(entry) as file:
                        files[entry.filename] = file.read(left + 1)
                    left -= len(files[entry.filename])
                    if left < 0:
                        raise AppError(f"the bundle has more than {_LARGEST_CONTENT} bytes of content")
        except _DAMAGED as error:
            raise AppError(f"the bundle is not a zip file that can be read: {error}") from error
        return cls(sha256=sha256(data).hexdigest(), name=_name_of(files), files=files, data=data)

    @property
    def unusual(self) -> tuple[str, ...]:
        """The files that are not source, configuration or text."""
        return tuple(
            name
            for name in self.files
            if PurePosixPath(name).suffix not in _PLAIN and PurePosixPath(name).name not in _OTHERS
        )


def _check_name(entry: zipfile.ZipInfo, files: Mapping[str, bytes]) -> None:
    path = PurePosixPath(entry.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or not entry.filename.isprintable():
        raise AppError(f"the bundle has a file that would lie outside of its folder, {entry.filename!r}")
    # Two ways to write one name would be two files to look at, of which one runs.
    if str(path) != entry.filename.removesuffix("/"):
        raise AppError(f"the bundle has a file whose name is not in its plain form, {entry.filename!r}")
    if entry.filename in files:
        raise AppError(f"the bundle has two files of the name {entry.filename!r}")


def _name_of(files: Mapping[str, bytes]) -> str:
    try:
        project = tomllib.loads(files["pyproject.toml"].decode())
        publisher = project["tool"]["flwr"]["app"]["publisher"]
        return f"{publisher}/{project['project']['name']} {project['project']['version']}"
    except KeyError as error:
        raise AppError(f"the bundle does not say what app it is: {error} is missing (pyproject.toml)") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise AppError(f"the pyproject.toml of the bundle cannot be read: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Approval:
    """A bundle that a site allows.

    Attributes:
        sha256: of its bytes, in hexadecimal.
        name: what it said to be.
        when: when it was approved, UTC, ISO 8601.
    """

    sha256: str
    name: str
    when: str


def approved(path: Path) -> tuple[Approval, ...]:
    """Return the bundles that a site allows, none where there is no such file.

    Raises:
        SiteError: the file cannot be read.
    """
    try:
        value = json.loads(path.read_bytes())
        if value["schema"] != SCHEMA:
            raise ValueError(f"its schema is {value['schema']!r}, and {SCHEMA!r} is expected")  # noqa: TRY301
        return tuple(
            Approval(sha256=str(one["sha256"]), name=str(one["name"]), when=str(one["when"]))
            for one in value["bundles"]
        )
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SiteError(f"{path}, which names the approved bundles, cannot be used: {error}") from error


def is_approved(path: Path, data: bytes) -> bool:
    """Return whether a site allows a bundle with these very bytes.

    Raises:
        SiteError: the list cannot be read.
    """
    return sha256(data).hexdigest() in {approval.sha256 for approval in approved(path)}


def kept(path: Path, *, like: Bundle | None = None) -> Bundle | None:
    """Return a bundle that was approved, ``None`` if none was or its copy is gone or damaged.

    Args:
        path: the list.
        like: of the same app as this one, if one was approved; by default, and where none was, the last of all.

    Raises:
        SiteError: the list cannot be read.
    """
    known = approved(path)
    same = [one for one in known if like is not None and _app_of(one.name) == _app_of(like.name)]
    if not known:
        return None
    digest = (same or known)[-1].sha256
    try:
        data = _copy(path, digest).read_bytes()
    except OSError:
        return None
    try:
        return Bundle.read(data) if sha256(data).hexdigest() == digest else None
    except AppError:  # approved by a version of fedtrain that took more
        return None


def _app_of(name: str) -> str:
    return name.rpartition(" ")[0]


def approve_bundle(path: Path, bundle: Bundle, *, now: datetime) -> None:
    """Add a bundle to those that a site allows, durably, and keep a copy to compare the next with.

    Raises:
        SiteError: the list cannot be read.
        StorageError: it cannot be written; it is as before.
    """
    copy = _copy(path, bundle.sha256)
    try:
        copy.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {copy.parent}: {error.strerror or error}") from error
    write_atomic(copy, bundle.data)
    others = [approval for approval in approved(path) if approval.sha256 != bundle.sha256]
    when = now.astimezone(UTC).isoformat(timespec="seconds")
    _write(path, [*others, Approval(sha256=bundle.sha256, name=bundle.name, when=when)])


def withdraw(path: Path, digest: str) -> Approval:
    """Take a bundle from those that a site allows, durably, and return what it was.

    Args:
        path: the list.
        digest: its SHA-256, or the beginning of it.

    Raises:
        SiteError: no bundle has that digest, or several have.
        StorageError: the list cannot be written; it is as before.
    """
    known = approved(path)
    found = [approval for approval in known if approval.sha256.startswith(digest)]
    if len(found) != 1:
        listed = ", ".join(approval.sha256[:16] for approval in known) or "none"
        raise SiteError(f"{len(found)} approved bundles have a SHA-256 that begins with {digest!r}; approved: {listed}")
    _write(path, [approval for approval in known if approval != found[0]])
    return found[0]


def _copy(path: Path, digest: str) -> Path:
    return path.parent / "bundles" / f"{digest}.fab"


def _write(path: Path, approvals: list[Approval]) -> None:
    value = {"schema": SCHEMA, "bundles": [vars(approval) for approval in approvals]}
    write_atomic(path, json.dumps(value, indent=2).encode() + b"\n")
