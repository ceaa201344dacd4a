import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtrain.machines.bundles import Bundle
from fedtrain.machines.reading import read_bundle, verdict

PROJECT = b'[project]\nname = "app"\n[tool.flwr.app.components]\nclientapp = "client:app"\n'


def bundle(name="north/app 1.0.0", data=b"", **files):
    content = {f"{key}.py": value for key, value in files.items()}
    return Bundle(sha256="0" * 64, name=name, files={"pyproject.toml": PROJECT, **content}, data=data)


OWN = bundle("fedtrain/fedtrain 1.0.0", b"own", client=b"app = 1\n")


def reading(content, *, name="client.py", **more):
    found = Bundle(sha256="1" * 64, name="north/app 1.0.0", files={"pyproject.toml": PROJECT, name: content}, data=b"")
    return read_bundle(found, own=OWN, **more)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (OWN, "this is the app of fedtrain 1.0.0, unmodified"),
        (bundle(OWN.name, b"other", client=b"app = 1\n"), "packed in another way"),
        (bundle(OWN.name, b"other", client=b"app = 2\n"), "different: client.py; read what differs"),
        (bundle("fedtrain/fedtrain 2.0.0", b"other"), "install fedtrain 2.0.0 here"),
        (bundle("north/app 1.0.0", b"other", client=b"app = 1\n"), "packed in another way"),
        (bundle("fedtra\u0456n/fedtrain 1.0.0", b"other"), "this is not fedtrain's own app"),
        (bundle("north/app 1.0.0"), "this is not fedtrain's own app"),
    ],
)
def test_only_the_bytes_say_whose_app_it_is(found, said):
    assert said in verdict(found, OWN)
    assert ("unmodified" in verdict(found, OWN)) == (found is OWN)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a = 1 # \x1b[2J\n", "do not show, or act on a terminal, in line 1"),
        (b"\na = '\xe2\x80\xae'\n", "do not show, or act on a terminal, in line 2"),  # turns the direction of writing
        (b"a = '\xe2\x80\x8b'\n", "do not show, or act on a terminal, in line 1"),  # has no width
        ("a = 'e\u0301'\n".encode(), "do not show, or act on a terminal, in line 1"),  # is drawn onto the one before
        ("\u3164 = 1\n".encode(), "do not show, or act on a terminal, in line 1"),  # a letter of which nothing is drawn
        ("if '\u05d0' == a:\n".encode(), "do not show, or act on a terminal, in line 1"),  # from right to left
        (b"# go on\rimport os\n", "do not show, or act on a terminal, in line 1"),
        (b"a = '\xff'\n", "do not show, or act on a terminal, in line 1"),
        ("\u0430pp = 1\n".encode(), "letters beyond ASCII, which may look like others, in line 1"),  # Cyrillic
        (b"# coding: utf-7\na = 1\n", "it says that it is written in utf-7"),
        (b"# coding: unicode_escape\n# \\x0aimport os\n", "it says that it is written in unicode_escape"),
        (b"# coding: nothing-known\n", "an encoding that Python does not know"),
        (b"a = 1" + b" " * 500 + b"; import os\n", "more than 200 letters in line 1"),
        (b"a = 1\n" + b"\n" * 100 + b"import os\n", "many blank lines around line 21"),
    ],
)
def test_what_could_be_overlooked_is_said(content, said):
    found = [line for line in reading(content).summary if line.startswith("warning: client.py: ")]
    assert any(said in line for line in found), found


def test_code_that_hides_nothing_has_no_warning():
    assert not any("warning" in line for line in reading(b"import flwr\r\n\r\napp = 1\r\n").summary)
    assert not any("warning" in line for line in reading(b"a = 1\n" + b"\n" * 100).summary)


@pytest.mark.parametrize("name", ["torch.py", "json/__init__.py", "fedtrain/privacy/noise.py", "torch.so"])
def test_a_module_in_the_place_of_an_installed_one_is_said(name):
    found = reading(b"", name=name, installed={"torch", "fedtrain"}.__contains__).summary
    assert f"warning: Python would import {name} in the place of what is installed" in found


@pytest.mark.parametrize(
    ("name", "shown"),
    [("cli\u0435nt.py", r"'cli\u0435nt.py'"), ("client.py  .md", "'client.py  .md'"), (" client.py", "' client.py'")],
)
def test_a_name_is_that_of_no_other_file(name, shown):
    assert any(line.endswith(f"  {shown}") for line in reading(b"", name=name).summary)
    assert shown in reading(b"", name=name).code


def test_no_name_is_continued_at_the_left_edge_of_the_screen():
    said = "this is the app of fedtrain 1.0.0, unmodified"
    name = "north/" + " " * 200 + said
    found = Bundle(sha256="1" * 64, name=name, files={"a" * 200 + said + ".py": b""}, data=b"")
    for line in read_bundle(found, own=OWN).summary:
        assert said not in line
    claimed = Bundle(sha256="1" * 64, name=f"fedtrain/fedtrain 1{' ' * 200}{said}", files={}, data=b"")
    assert all(said not in line for line in read_bundle(claimed, own=OWN).summary)


def test_what_is_no_text_is_named_and_not_shown():
    assert any("3 bytes that are no text, SHA-256 " in line for line in reading(b"\0\1\2", name="weights.bin").code)
    assert "    1 | a<U+0000>b" in reading(b"a\0b").code  # Python may run it, whatever it is


def test_what_a_node_runs_is_said():
    assert "what this node runs: client:app" in reading(b"").summary
    empty = Bundle(sha256="1" * 64, name="n", files={}, data=b"")
    assert "warning: it does not say what a node runs" in read_bundle(empty, own=OWN).summary


def test_a_file_that_takes_too_long_to_compare_is_to_be_read():
    before, after = bundle(client=b"a\n" * 30_000), bundle(client=b"b\n" * 30_000)
    changes = read_bundle(after, own=OWN, before=before).changes
    assert changes[0] == "client.py: changed since it was approved"
    assert "not compared: more than 20000 lines" in changes[1]


def test_nothing_is_drawn_onto_a_margin_or_turns_it_round():
    code = reading("\u0338a\n\u05d0 = '\u0661'\n\u2800\u1160b\nd\u00e9j\u00e0 \u4e2d\n".encode()).code
    begin = code.index("client.py") + 1
    assert code[begin : begin + 4] == (
        "    1 | <U+0338>a",
        "    2 | <U+05D0> = '<U+0661>'",
        "    3 | <U+2800><U+1160>b",
        "    4 | d\u00e9j\u00e0 \u4e2d",
    )


def test_a_long_line_is_broken_and_whole():
    code = reading(b"a" * 250 + b"\n", width=100).code
    begin = code.index("client.py") + 1
    assert [line[:8] for line in code[begin : begin + 3]] == ["    1 | ", "      > ", "      > "]
    assert "".join(line[8:] for line in code[begin : begin + 3]) == "a" * 250


@settings(max_examples=40)
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode), width=st.integers(40, 120))
def test_nothing_in_a_file_leaves_its_margin_or_acts_on_the_terminal(content, width):
    before = bundle(client=b"before\n")
    found = read_bundle(bundle(client=content), own=OWN, before=before, width=width)
    code = found.code[found.code.index("client.py") + 1 :]
    code = code[: code.index("pyproject.toml")]
    for line in code:
        assert line[5:8] in {" | ", " > "}
    for line in found.changes:
        assert line == "client.py: changed since it was approved" or line[:8] in {"      | ", "      > "}
    for line in (*found.summary, *found.changes, *found.code):
        assert line.isprintable()
    assert all(len(line) <= width for line in (*found.changes, *code))


@settings(max_examples=40)
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_two_files_that_differ_are_shown_to_differ(one, other):
    changes = read_bundle(bundle(client=other), own=OWN, before=bundle(client=one)).changes
    assert bool(changes) == (one != other)
