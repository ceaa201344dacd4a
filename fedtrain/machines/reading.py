"""What a site reads before it approves a bundle: whose app it is, what changed, and every line of its code.

The bundle is somebody else's, who may want a line not to be seen. So what it holds is told from what is said of it by a
margin, letters that would act on a terminal are written as their numbers, and a line is broken where the screen ends.
"""

import difflib
import io
import sys
import tokenize
import tomllib
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath

from fedtrain.machines.bundles import Bundle

_OWN = "fedtrain/fedtrain "  # how our own app, and whoever likes to, begins its name
_MADE = ".info/CONTENT"  # Flower's list of the files
_LEAST_WIDTH = 40
_LONG_LINE, _BLANK_LINES = 200, 20
_LISTED = 8
_LONG_NAME = 60
_SOURCE = {".py", ".toml"}
_MODULES = {".py", ".pyc", ".so"}
_MARKS = {"Mn", "Me"}  # categories of what is drawn onto the letter before
_LEFTWARDS = {"R", "AL", "AN"}  # bidirectional classes
_EMPTY = set("\u115f\u1160\u2800\u3164\uffa0")  # letters, by Unicode, of which nothing is drawn
_COMPARED = 20_000  # lines of a file: more would take minutes to compare


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A bundle, as a person reads it.

    Attributes:
        summary: what it is: name, digest, files, whose app, and warnings.
        changes: what differs from the bundle that was approved before, line by line; empty without one.
        code: the content of each file that is text.
    """

    summary: tuple[str, ...]
    changes: tuple[str, ...]
    code: tuple[str, ...]


def read_bundle(
    bundle: Bundle,
    *,
    own: Bundle,
    before: Bundle | None = None,
    installed: Callable[[str], bool] = lambda _: False,
    width: int = 100,
) -> Reading:
    """Return what a site reads of a bundle.

    Args:
        bundle: what it may approve.
        own: the bundle of the fedtrain that is installed on this machine: what "unmodified" means.
        before: the one that it approved before.
        installed: says whether this machine has a module of this name.
        width: columns of the screen.

    Example:
        >>> own = Bundle(sha256="0" * 64, name="fedtrain/fedtrain 1.0", files={"client.py": b"a = 1"}, data=b"")
        >>> print(*read_bundle(own, own=own).code, sep=chr(10))
        client.py
            1 | a = 1
    """
    width = max(_LEAST_WIDTH, width)
    summary = [
        f"bundle {called(bundle.name)}",
        f"SHA-256 {bundle.sha256}",
        *_files(bundle, before),
        verdict(bundle, own),
        *(() if bundle.data == own.data else [f"warning: {line}" for line in warnings(bundle, installed)]),
    ]
    return Reading(
        summary=tuple(summary),
        changes=() if before is None else tuple(_changes(before, bundle, width)),
        code=tuple(_code(bundle, width)),
    )


def called(name: str) -> str:
    """Return what a bundle calls itself, so that it can be said in a line of ours."""
    return _short(visible(name))


def visible(text: str) -> str:
    """Return a text in which what acts on a terminal, or does not show, is written as its number.

    Letters from right to left act on one, too: a line of them begins at the right, with its margin.

    >>> visible("a" + chr(27) + "[2J" + chr(0x202E) + "b")
    'a<U+001B>[2J<U+202E>b'
    """
    return "".join(letter if _shows(letter) else _number(letter) for letter in text)


def _shows(letter: str) -> bool:
    """Say whether a letter shows in a place of its own, from left to right."""
    if letter.isascii():
        return letter.isprintable()
    return (
        letter.isprintable()
        and letter not in _EMPTY
        and unicodedata.category(letter) not in _MARKS
        and unicodedata.bidirectional(letter) not in _LEFTWARDS
    )


def verdict(bundle: Bundle, own: Bundle) -> str:
    """Say whether a bundle is the app of the fedtrain that is installed here, byte for byte, or what it is not."""
    version = own.name.removeprefix(_OWN)
    if bundle.data == own.data:
        return (
            f"this is the app of fedtrain {version}, unmodified: byte for byte what the fedtrain on this machine makes"
        )
    if bundle.files == own.files:
        return (
            f"its files are those of the app of fedtrain {version} on this machine, byte for byte; they were packed in "
            "another way, as by another version of Flower"
        )
    if not bundle.name.startswith(_OWN):
        return (
            "this is not fedtrain's own app. Nothing but its code says whether it keeps to site.toml, and what it does "
            "with the records: read it"
        )
    claimed = _short(visible(bundle.name.removeprefix(_OWN)))
    names = sorted((bundle.files.keys() | own.files.keys()) - {_MADE})
    different = [_named(name) for name in names if bundle.files.get(name) != own.files.get(name)]
    advice = (
        "read what differs"
        if claimed == version
        else f"install fedtrain {claimed} here from where you trust it, and compare again, or read all of it"
    )
    return (
        f"warning: it calls itself the app of fedtrain {claimed}, and is not the one of fedtrain {version}, "
        f"which is installed on this machine; different: {_some(different) or 'how it is packed'}; {advice}"
    )


def warnings(bundle: Bundle, installed: Callable[[str], bool]) -> Iterator[str]:
    """Yield what could be overlooked in a bundle.

    Args:
        bundle: the bundle.
        installed: says whether this machine has a module of this name, whose place one of the bundle would take.
    """
    for name in bundle.unusual:
        yield f"{_named(name)} is neither source nor text"
    taken = [
        _named(name)
        for name in sorted(bundle.files)
        if (module := _module(name)) and (module in sys.stdlib_module_names or installed(module))
    ]
    if taken:
        yield f"Python would import {_some(taken)} in the place of what is installed"
    for name, content in sorted(bundle.files.items()):
        if PurePosixPath(name).suffix in _SOURCE:
            for problem in _hidden(content, python=name.endswith(".py")):
                yield f"{_named(name)}: {problem}"


def _module(name: str) -> str:
    """Return the module that a file is, or is in; empty if it is none."""
    path = PurePosixPath(name)
    return path.parts[0].partition(".")[0] if len(path.parts) > 1 or path.suffix in _MODULES else ""


def _hidden(content: bytes, *, python: bool) -> Iterator[str]:
    """Yield what could keep a reader of a source file from seeing what runs."""
    if python and (encoding := _encoding(content)) not in {"utf-8", "utf-8-sig"}:
        yield f"it says that it is written in {encoding}, so that Python may read other code than is shown here"
    lines = _lines(content)
    acting = [
        number
        for number, line in enumerate(lines, start=1)
        if not all(_shows(letter) or letter == "\t" for letter in line.removesuffix("\r"))
    ]
    if acting:
        yield f"letters that do not show, or act on a terminal, in line {_some(list(map(str, acting)))}"
    foreign = [str(number) for number, line in enumerate(lines, start=1) if not line.isascii()]
    if foreign:
        yield f"letters beyond ASCII, which may look like others, in line {_some(foreign)}"
    long = [str(number) for number, line in enumerate(lines, start=1) if len(line) > _LONG_LINE]
    if long:
        yield f"more than {_LONG_LINE} letters in line {_some(long)}: look at their ends"
    blank = 0
    for number, line in enumerate(lines, start=1):
        blank = 0 if line.strip() else blank + 1
        if blank == _BLANK_LINES and any(rest.strip() for rest in lines[number:]):
            yield f"many blank lines around line {number}, and more after them"
            return


def _encoding(content: bytes) -> str:
    try:
        return tokenize.detect_encoding(io.BytesIO(content).readline)[0]
    except SyntaxError:
        return "an encoding that Python does not know"


def _files(bundle: Bundle, before: Bundle | None) -> Iterator[str]:
    for name, content in sorted(bundle.files.items()):
        known = None if before is None else before.files.get(name)
        note = "" if before is None or known == content else "  new" if known is None else "  changed"
        yield f"{len(content):9}  {_named(name)}{note}"
    for name in () if before is None else sorted(before.files.keys() - bundle.files.keys()):
        yield f"           {_named(name)}  gone"
    yield from _components(bundle)


def _components(bundle: Bundle) -> Iterator[str]:
    """Say what a node runs of it, as its ``pyproject.toml`` names it."""
    try:
        app = tomllib.loads(bundle.files["pyproject.toml"].decode())["tool"]["flwr"]["app"]
        yield f"what this node runs: {_short(visible(str(app['components']['clientapp'])))}"
    except (KeyError, TypeError, ValueError):
        yield "warning: it does not say what a node runs"


def _changes(before: Bundle, bundle: Bundle, width: int) -> Iterator[str]:
    for name in sorted(before.files.keys() | bundle.files.keys()):
        # As bytes, at line feeds alone: what decodes to the same text, or ends lines for Python only, differs too.
        old, new = (one.files.get(name, b"").split(b"\n") for one in (before, bundle))
        if old == new:
            continue
        yield f"{_named(name)}: changed since it was approved"
        if max(len(old), len(new)) > _COMPARED:
            yield f"      not compared: more than {_COMPARED} lines; read all of it"
            continue
        lines = list(difflib.diff_bytes(difflib.unified_diff, old, new, lineterm=b""))
        for line in lines[2:]:  # what comes before names the files
            yield from _margined("      | ", _decoded(line), width)


def _code(bundle: Bundle, width: int) -> Iterator[str]:
    # Flower's list comes last: it says nothing that is not known.
    order = sorted(bundle.files, key=lambda name: (name == _MADE, not name.endswith(".py"), name))
    for name, content in ((name, bundle.files[name]) for name in order):
        if name.endswith("/"):
            continue
        yield _named(name)
        if not name.endswith(".py") and not _is_text(content):
            yield f"      not shown: {len(content)} bytes that are no text, SHA-256 {sha256(content).hexdigest()}"
            continue
        lines = _lines(content)
        dos = bool(lines) and all(line.endswith("\r") for line in lines[: -1 if not lines[-1] else None])
        for number, line in enumerate(lines[: -1 if not lines[-1] else None], start=1):
            yield from _margined(f"{number:5} | ", line.removesuffix("\r") if dos else line, width)


def _margined(margin: str, line: str, width: int) -> Iterator[str]:
    """Break a line so that nothing of it is beyond the screen, or at its left edge."""
    text, used, begin = visible(line.expandtabs(8)), 0, 0
    room = width - len(margin) - 1
    for place, letter in enumerate(text):
        columns = _columns(letter)
        if used + columns > room:
            yield margin + text[begin:place]
            margin, begin, used = " " * (len(margin) - 2) + "> ", place, 0
        used += columns
    yield margin + text[begin:]


def _columns(letter: str) -> int:
    """Return how many columns a letter takes at most."""
    return 1 if letter.isascii() or unicodedata.east_asian_width(letter) in {"Na", "H", "N"} else 2


def _lines(content: bytes) -> list[str]:
    return _decoded(content).split("\n")


def _decoded(content: bytes) -> str:
    return content.decode(errors="surrogateescape")


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def _number(letter: str) -> str:
    code = ord(letter)
    # What is no UTF-8 was decoded to one of these.
    return f"<byte {code - 0xDC00:02X}>" if 0xDC80 <= code <= 0xDCFF else f"<U+{code:04X}>"  # noqa: PLR2004


def _named(name: str) -> str:
    """Return a file's name so that it is no other's: one with blanks, or letters that look like others, in quotes."""
    return _short(name if name.isascii() and " " not in name and name.isprintable() else ascii(name))


def _short(text: str) -> str:
    """Shorten what a bundle calls something, which could be continued at the left edge of a screen by what it likes."""
    return text if len(text) <= _LONG_NAME else f"{text[:_LONG_NAME]}… ({len(text)} letters)"


def _some(names: list[str]) -> str:
    return ", ".join([*names[:_LISTED], *([f"and {len(names) - _LISTED} more"] if len(names) > _LISTED else [])])
