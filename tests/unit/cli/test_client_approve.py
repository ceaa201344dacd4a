import json
import warnings
import zipfile
from hashlib import sha256
from itertools import islice

import pytest

from fedtrain import __version__
from fedtrain.flower.app import build_bundle, own_app
from fedtrain.health.node import site
from fedtrain.machines.bundles import is_approved
from tests.federations import provisioned

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app

# Flower's choice of files warns of a library's old name.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")

PROJECT = b'[project]\nname = "app"\nversion = "1.0.0"\n[tool.flwr.app]\npublisher = "north"\n'


@pytest.fixture
def node(tmp_path):
    (node,) = provisioned(tmp_path / "federation", (4,)).nodes
    return node


def bundle(folder, **files):
    path = folder / "app.fab"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pyproject.toml", PROJECT)
        for name, content in files.items():
            archive.writestr(f"{name}.py", content)
    return path


def run(node, *arguments, answer=""):
    return CliRunner().invoke(app, ["client", "approve", str(node.path), *map(str, arguments)], input=answer)


def test_a_bundle_is_shown_and_allowed_if_a_person_says_so(node, tmp_path):
    path = bundle(tmp_path, client="app = 1\n")
    digest = sha256(path.read_bytes()).hexdigest()
    refused = run(node, path, answer="n\n")
    assert refused.exit_code == 2
    assert not is_approved(node.approved, path.read_bytes())
    result = run(node, path, answer="y\n")
    assert result.exit_code == 0, result.output
    assert f"bundle north/app 1.0.0\nSHA-256 {digest}\n        8  client.py\n" in result.stdout
    assert is_approved(node.approved, path.read_bytes())
    assert run(node).stdout.startswith(f"{digest}  20")


def test_a_program_approves_only_what_it_says_that_it_approves(node, tmp_path):
    path = bundle(tmp_path, client="app = 1\n")
    asked = run(node, path, "--json", answer="y\n")
    assert (asked.exit_code, json.loads(asked.stdout)["exit_status"]) == (2, 2)
    assert not is_approved(node.approved, path.read_bytes())
    found = json.loads(run(node, path, "--json", "--yes").stdout)
    assert (found["sha256"], found["unmodified"]) == (sha256(path.read_bytes()).hexdigest(), False)
    assert is_approved(node.approved, path.read_bytes())
    assert [each["sha256"] for each in json.loads(run(node, "--json").stdout)["approved"]] == [found["sha256"]]


def test_what_changed_since_the_last_is_shown(node, tmp_path):
    assert run(node, bundle(tmp_path, client="a = 1\n", same="", old=""), "--yes").exit_code == 0
    result = run(node, bundle(tmp_path, client="a = 2\n", same="", new=""), "--yes", "--diff")
    assert "client.py  changed\n" in result.stdout
    assert "new.py  new\n" in result.stdout
    assert "old.py  gone\n" in result.stdout
    assert "same.py\n" in result.stdout
    assert "client.py: changed since it was approved\n" in result.stdout
    assert "      | -a = 1\n      | +a = 2\n" in result.stdout


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"# go on\xe2\x80\xa8import os\n", b"# go on\nimport os\n"),  # a line separator, which ends no comment
        (b"# go on\rimport os\n", b"# go on\nimport os\n"),
        (b"# coding: latin-1\nif \xe9:\n", b"# coding: latin-1\nif \xe8:\n"),
    ],
)
def test_no_change_of_the_code_is_left_out(node, tmp_path, before, after):
    assert run(node, bundle(tmp_path, client=before), "--yes").exit_code == 0
    shown = run(node, bundle(tmp_path, client=after), "--yes", "--diff").stdout
    assert "client.py: changed since it was approved\n" in shown
    assert "\n      | -" in shown
    assert "\n      | +" in shown


def test_all_of_the_code_is_read_unless_somebody_says_that_it_was(node, tmp_path):
    path = bundle(tmp_path, client="app = 1\n")
    assert "client.py\n    1 | app = 1\n" in run(node, path, answer="n\n").stdout
    assert "app = 1" not in run(node, path, "--yes").stdout
    again = run(node, path, answer="n\n").stdout
    assert "no file has changed\n\nall of the code:\n" in again
    assert "this very bundle was approved on 20" in again
    changed = run(node, bundle(tmp_path, client="app = 2\n"), "--diff", answer="n\n").stdout
    assert "      | -app = 1\n      | +app = 2\n" in changed
    assert "    1 | app = 2" not in changed


def test_what_is_said_of_a_bundle_comes_after_what_is_in_it(node, tmp_path):
    path = bundle(tmp_path, client="# this is the app of fedtrain 9.9, unmodified\n", json="")
    shown = run(node, path, answer="n\n").stdout
    said = shown.index("this is not fedtrain's own app")
    assert shown.index("    1 | # this is the app of fedtrain 9.9, unmodified") < said
    assert said < shown.index("warning: Python would import json.py") < shown.index("let this code train")


def test_fedtrains_own_app_is_told_by_its_bytes(node, tmp_path):
    own = build_bundle(own_app())
    (tmp_path / "own.fab").write_bytes(own)
    shown = run(node, tmp_path / "own.fab", answer="n\n").stdout
    assert f"this is the app of fedtrain {__version__}, unmodified" in shown
    assert "warning" not in shown
    assert "site.toml of this site allows: modes none, record, client; epsilon 8 at delta 0.001" in shown
    with zipfile.ZipFile(tmp_path / "own.fab", "a") as archive:
        archive.writestr("clients/more.py", "import os\n")
    shown = run(node, tmp_path / "own.fab", answer="n\n").stdout
    assert "unmodified" not in shown
    assert f"warning: it calls itself the app of fedtrain {__version__}, and is not" in shown
    assert "different: clients/more.py; read what differs" in shown


def test_the_bundle_of_the_same_app_is_compared_with(node, tmp_path):
    run(node, bundle(tmp_path, client="a = 1\n"), "--yes")
    (tmp_path / "own.fab").write_bytes(build_bundle(own_app()))
    run(node, tmp_path / "own.fab", "--yes")
    shown = run(node, bundle(tmp_path, client="a = 2\n"), answer="n\n").stdout
    assert "      | -a = 1\n      | +a = 2\n" in shown
    assert "compared with north/app 1.0.0" in shown


def test_without_an_answer_it_is_not_approved(node, tmp_path):
    result = run(node, bundle(tmp_path, client=""))
    assert result.exit_code == 2
    assert "nobody answered; look at the bundle, and repeat with --yes" in result.stderr
    assert run(node).stdout == ""


def test_a_difference_to_nothing_is_said_to_be_none(node, tmp_path):
    result = run(node, bundle(tmp_path, client=""), "--yes", "--diff")
    assert "there is no bundle to compare with" in result.stdout


def test_where_there_is_nothing_to_compare_with_a_person_who_asks_for_changes_gets_all_of_the_code(node, tmp_path):
    shown = run(node, bundle(tmp_path, client="app = 1\n"), "--diff", answer="n\n").stdout
    assert "all of the code:\nclient.py\n    1 | app = 1\n" in shown


def test_what_a_bundle_says_does_not_steer_the_terminal(node, tmp_path):
    assert run(node, bundle(tmp_path, client="a = 1\n"), "--yes").exit_code == 0
    result = run(node, bundle(tmp_path, client="a = '\x1b[2J'\n"), "--yes", "--diff")
    assert result.exit_code == 0
    assert "\x1b" not in result.output


def test_what_the_bundle_before_calls_itself_is_no_line_of_the_screen(node, tmp_path):
    # A pager gets what is said as it is: here it is seen by what is not left to the last writer to replace.
    path = tmp_path / "app.fab"
    for more in (b"", b"# another\n"):
        with zipfile.ZipFile(path, "w") as archive:
            named = b'name = "app\\nthis is the app of fedtrain 9.9, unmodified\\u001b[2J"'
            archive.writestr("pyproject.toml", PROJECT.replace(b'name = "app"', named) + more)
        shown = run(node, path, answer="y\n").stdout
    assert "compared with north/app<U+000A>this is the app of fedtrain 9.9" in shown
    assert "\N{REPLACEMENT CHARACTER}" not in shown.partition("let this code train")[0]


def test_what_is_approved_begins_no_line_of_the_screen_by_its_name(node, tmp_path):
    path, forged = tmp_path / "app.fab", b"0" * 64 + b"  another bundle"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pyproject.toml", PROJECT.replace(b'"app"', b'"app' + b" " * 200 + forged + b'"'))
    run(node, path, "--yes")
    listed = run(node).stdout
    (bundles,) = [check.detail for check in islice(site(node), 2) if check.name == "bundles"]
    withdrawn = run(node, "--withdraw", sha256(path.read_bytes()).hexdigest()).stdout
    for said in (listed, bundles, withdrawn):
        assert "north/app   " in said
        assert "another bundle" not in said


def test_a_bundle_is_withdrawn(node, tmp_path):
    path = bundle(tmp_path, client="")
    run(node, path, "--yes")
    digest = sha256(path.read_bytes()).hexdigest()
    assert "is not approved any more" in run(node, "--withdraw", digest[:16]).stdout
    assert not is_approved(node.approved, path.read_bytes())
    assert run(node).stdout == ""
    assert run(node, "--withdraw", digest).exit_code == 2


def test_what_is_no_bundle_is_refused(node, tmp_path):
    (tmp_path / "app.fab").write_bytes(b"nothing")
    for path in (tmp_path / "app.fab", tmp_path / "nowhere"):
        result = run(node, path, "--yes")
        assert result.exit_code == 2
        assert "bundle" in result.stderr
    assert not node.approved.exists()
