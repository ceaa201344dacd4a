import copy
import html.parser
import json
import re
import shutil

import pytest
import typer
from typer.testing import CliRunner

from fedtrain import audit_report
from fedtrain.audit import CHECKS
from fedtrain.audit.run import LIMITS
from fedtrain.cli.app import app
from fedtrain.cli.running import output
from fedtrain.errors import KeyFileError
from fedtrain.report import Report
from tests.unit.audit.world import client_world, line


@pytest.fixture(scope="module")
def world():
    return client_world("capped")


@pytest.fixture
def files(world, tmp_path):
    """Write the report, the roster, and the ledger of client 1."""
    plain = world.report()
    (tmp_path / "report.json").write_text(json.dumps(plain))
    world.roster.write(tmp_path / "roster.json")
    (tmp_path / "mine.jsonl").write_bytes(b"".join(map(line, plain["proof"]["ledgers"][1]["entries"])))
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_an_honest_report_holds(files, world):
    result = call(
        files / "report.json",
        "--roster",
        files / "roster.json",
        "--ledger",
        files / "mine.jsonl",
        "--html",
        files / "a.html",
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["holds", "pinned", "keys"]
    assert any(line.startswith("holds") and "clients' own files" in line for line in lines)
    assert any(line.startswith("not proven") and "collusion" in line for line in lines)
    held, open_ = (sum(line.startswith(status) for line in lines) for status in ("holds ", "not proven "))
    assert held + open_ == len(CHECKS) + len(LIMITS)
    assert any(
        line.startswith("What you may rely on: On this: the holders of the pinned keys signed") for line in lines
    )
    assert lines[-1] == f"The report holds as far as it can be proven: {held} checks hold, {open_} cannot be proven."
    page = (files / "a.html").read_text()
    assert "What no audit can prove" in page
    assert "What fails" not in page
    assert world.roster.digest in page
    assert "UTC, a run that completed, by fedtrain " in page
    assert "Do not rely" not in page


def test_a_run_folder_stands_for_the_report_in_it(files):
    result = call(files, "--roster", files / "roster.json")
    assert result.exit_code == 0, result.output
    (files / "report.json").unlink()
    assert f"cannot read {files / 'report.json'}: No such file" in call(files).stderr


def test_what_cannot_be_read_is_named_with_its_file(files):
    file = files / "report.json"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    cut = call(file)
    assert cut.exit_code == 2
    assert cut.stderr.startswith(f"error: {file}: the report cannot be read: it is no JSON, or not all of it: ")
    assert cut.stderr.endswith("; get the whole file again\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plain: plain["privacy"].update(epsilon=plain["privacy"]["epsilon"] / 2), "privacy: epsilon = "),
        (lambda plain: plain.update(rounds=1), 'the report: status = "completed" needs all planned rounds'),
        (lambda plain: plain["data"].update(owners=["one"]), "data: owners has 1 names for"),
    ],
)
def test_a_report_that_contradicts_itself_is_refuted_with_status_one(files, change, words):
    file = files / "report.json"
    plain = json.loads(file.read_text())
    change(plain)
    file.write_text(json.dumps(plain))
    result = call(file, "--roster", files / "roster.json", "--html", files / "a.html")
    assert result.exit_code == 1, result.output
    rows = {tuple(re.split("  +", row)[:2]): row for row in result.stdout.splitlines()}
    assert f"the report contradicts itself: {words}" in rows["fails", "consistency"]
    assert ("holds", "server's record") in rows
    assert "the report was changed after it was signed" in rows["fails", "closing"]
    assert "Value error" not in result.stdout
    assert result.stdout.splitlines()[-1] == "The report is refuted: 2 of 3 checks fail."
    assert "Do not rely on this report" in (files / "a.html").read_text()
    machine = json.loads(call(file, "--json").stdout)
    assert (machine["exit_status"], machine["outcome"]) == (1, "refuted")
    assert [check["name"] for check in machine["checks"]] == ["server's record", "closing", "consistency"]
    verdict = audit_report(file)
    assert not verdict.holds


EDITS = {
    "another type": lambda plain: plain["privacy"].update(mode=3),
    "a field is missing": lambda plain: plain.pop("model"),
    "a field too many": lambda plain: plain.update(more=1),
    "a number of any size": lambda plain: plain["config"].update(seed=2**60),
    "no proof": lambda plain: plain.update(proof=None),
    "a proof of another form": lambda plain: plain.update(proof=[1]),
    "a record of another form": lambda plain: plain["proof"].update(record=3),
    "a roster of another form": lambda plain: plain["proof"].update(roster="keys"),
}


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_report_fails_by_name_with_a_page(files, edit, pinned):
    file = files / "report.json"
    plain = json.loads(file.read_text())
    edit(plain)
    file.write_text(json.dumps(plain))
    roster = ["--roster", files / "roster.json"] if pinned else []
    result = call(file, *roster, "--html", files / "a.html")
    assert result.exit_code == 1, result.output
    row = r"^fails +consistency +the report (is not as fedtrain writes it|contradicts itself)"
    assert re.search(row, result.stdout, re.MULTILINE)
    assert "Do not rely on this report" in (files / "a.html").read_text()


def test_a_report_with_a_key_twice_fails_by_name(files):
    file = files / "report.json"
    # As a run writes it, and not with fields that it leaves out.
    written = Report.model_validate_json(file.read_text()).model_dump_json()
    file.write_text(written.replace('{"schema"', '{"schema": "x", "schema"', 1))
    result = call(file, "--roster", files / "roster.json")
    assert result.exit_code == 1, result.output
    assert "it has the key 'schema' twice in one object" in result.stdout
    # What comes last counts for most readers, and that was signed.
    assert re.search(r"^holds +closing", result.stdout, re.MULTILINE)


def test_a_report_of_another_version_is_refused_with_status_two(files):
    file = files / "report.json"
    file.write_text(file.read_text().replace("fedtrain.report/3", "fedtrain.report/9", 1))
    result = call(file)
    assert result.exit_code == 2
    assert "schema" in result.stderr


def test_a_simulation_never_holds(tmp_path):
    world = client_world("capped", noise="seeded")
    (tmp_path / "report.json").write_text(json.dumps(world.report()))
    world.roster.write(tmp_path / "roster.json")
    arguments = (tmp_path / "report.json", "--roster", tmp_path / "roster.json", "--html", tmp_path / "a.html")
    result = call(*arguments)
    assert result.exit_code == 4, result.output
    assert result.stdout.splitlines()[-1].startswith("Simulation: protects nobody")
    page = (tmp_path / "a.html").read_text()
    assert '<span class="status interrupted">simulation: protects nobody</span>a federated training report of' in page
    assert '<span class="status completed">holds</span>audit of' not in page
    machine = json.loads(call(*arguments, "--json").stdout)
    assert (machine["exit_status"], machine["outcome"]) == (4, "simulation")
    assert machine["verdict"].startswith("Simulation: protects nobody")
    assert machine["reliance"].startswith("On the arithmetic")


def test_the_keys_of_the_run_folder_pin_nothing(files):
    (files / "record.jsonl").touch()
    result = call(files, "--roster", files / "roster.json", "--html", files / "a.html")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("The keys are not pinned: nothing is proven about who signed.")
    assert "the report names the keys of a run folder's own roster" in result.stdout
    assert "those of the run folder" in (files / "a.html").read_text()
    copy = shutil.copy(files / "report.json", files.parent / "copy.json")
    assert call(copy, "--roster", files / "roster.json").stdout.splitlines()[-1].startswith("The keys are not pinned: ")
    assert not audit_report(copy, roster=files / "roster.json").pinned
    elsewhere = files / "elsewhere"
    elsewhere.mkdir()
    (files / "roster.json").rename(elsewhere / "roster.json")
    pinned = call(files, "--roster", elsewhere / "roster.json")
    assert pinned.stdout.splitlines()[-1].startswith("The report holds as far as")


def test_a_page_that_cannot_be_written_is_no_verdict(files):
    result = call(files / "report.json", "--html", files / "nowhere" / "a.html", "--json")
    assert result.exit_code == 2
    machine = json.loads(result.stdout)
    assert (machine["exit_status"], machine.get("outcome")) == (2, None)
    assert machine["error"].startswith("--html: cannot write ")


def test_a_forged_report_is_refuted_with_status_one(files, world):
    plain = json.loads((files / "report.json").read_text())
    plain["privacy"]["delta"] = 1e-4
    plain["name"] = "<script>alert(1)</script>"
    (files / "report.json").write_text(json.dumps(plain))
    result = call(files / "report.json", "--roster", files / "roster.json", "--html", files / "a.html")
    assert result.exit_code == 1
    assert "delta is 0.0001 in the report, and 1e-05 in the plan" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("The report is refuted: ")
    page = (files / "a.html").read_text()
    assert "<script" not in page
    assert "Do not rely on this report" in page
    assert "delta is 0.0001 in the report" in page
    tags = []
    reader = html.parser.HTMLParser()
    reader.handle_starttag = lambda tag, _: tags.append(tag)
    reader.feed(page)
    assert not {"script", "img", "iframe", "form"} & set(tags)


def test_without_pinned_keys_the_report_holds_and_says_that_they_are_not_proven(files):
    result = call(files / "report.json", "--json", "--html", files / "a.html")
    assert result.exit_code == 0
    (text,) = result.stdout.splitlines()
    answer = json.loads(text)
    assert answer["exit_status"] == 0
    assert answer["verdict"].startswith(
        "The keys are not pinned: nothing is proven about who signed. The report holds as far as"
    )
    first = answer["checks"][0]
    assert (first["name"], first["status"]) == ("pinned keys", "not proven")
    assert "No keys were pinned" in (files / "a.html").read_text()


def test_the_machine_is_told_of_a_refutation(files):
    plain = json.loads((files / "report.json").read_text())
    plain["privacy"]["delta"] = 1e-4
    (files / "report.json").write_text(json.dumps(plain))
    result = call(files / "report.json", "--json")
    assert result.exit_code == json.loads(result.stdout)["exit_status"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the report cannot be read"),
        (b'{"schema": "fedtrain.report/1"}', "the report cannot be read: schema: Input should be 'fedtrain.report/3'"),
        (b'{"a": 1, "a": 2}', "the report cannot be read: it has the key 'a' twice"),
        (b'{"a": [9007199254740992]}', "the whole number 9007199254740992 is beyond 2**53 - 1"),
        (b'{"a": [-1' + 5000 * b"0" + b"]}", "the whole number -1000"),
        (b'{"a": [1e400]}', "the number 1e400 is too large"),
        (b'{"a": [-Infinity]}', "-Infinity is not JSON"),
        (b'{"a": [NaN]}', "NaN is not JSON"),
        (b"[" * 100_000, "the report cannot be read"),
        (b"\xff", "the report cannot be read"),
    ],
)
def test_what_is_no_report_is_refused_with_status_two(tmp_path, content, message):
    (tmp_path / "report.json").write_bytes(content)
    result = call(tmp_path / "report.json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr


@pytest.mark.parametrize("option", ["--roster", "--ledger"])
def test_a_file_that_is_missing_is_refused_with_status_two(files, option):
    result = call(files / "report.json", option, files / "nothing")
    assert result.exit_code == 2
    assert "cannot read" in result.stderr


_HOSTILE = "\x1b[2J\x1b[Hholds\r\nholds  everything\u202e\x9b\u2028" + 10_000 * "x"
_PLAIN = re.compile(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*")


def test_a_hostile_text_reaches_no_terminal_and_forges_no_row(files, world):
    plain = json.loads((files / "report.json").read_text())
    (files / "report.json").write_text(json.dumps({**plain, _HOSTILE: 1}))
    edited = call(files / "report.json", "--html", files / "a.html")
    assert edited.exit_code == 1
    assert _PLAIN.fullmatch(edited.stdout)
    assert sum(line.startswith("holds ") for line in edited.stdout.splitlines()) == 1  # the server's record
    assert _PLAIN.fullmatch((files / "a.html").read_text())
    (files / "report.json").write_text(json.dumps({_HOSTILE: 1}))
    result = call(files / "report.json")
    assert result.exit_code == 2
    assert _PLAIN.fullmatch(result.stderr)
    assert len(result.stderr.splitlines()) == 1
    assert len(result.stderr.removeprefix(f"error: {files}")) < 300

    for accountant in plain["privacy"]["accountants"]:
        accountant["name"] = _HOSTILE
    plain.update(name=_HOSTILE, run=_HOSTILE)
    for event in plain["privacy"]["events"]:
        event["run"] = _HOSTILE if event["run"] == world.run else event["run"]
    (files / "report.json").write_text(json.dumps(plain))
    result = call(files / "report.json", "--html", files / "a.html")
    assert result.exit_code == 1
    assert _PLAIN.fullmatch(result.stdout)
    rows = [line for line in result.stdout.splitlines() if line.startswith(("holds ", "fails ", "not proven "))]
    assert len(rows) == len(CHECKS) + len(LIMITS)
    assert len(result.stdout) < 20_000
    assert _PLAIN.fullmatch((files / "a.html").read_text())


def test_an_error_of_our_own_keeps_its_lines(capsys):
    with pytest.raises(typer.Exit) as stopped, output(False, False):
        raise KeyFileError("first\nsecond \x1b[2J\r")
    assert stopped.value.exit_code == 2
    replaced = "\N{REPLACEMENT CHARACTER}"
    assert capsys.readouterr().err == f"error: first\nsecond {replaced}[2J{replaced}\n"


def test_a_claim_beyond_all_measure_is_shown(files):
    plain = json.loads((files / "report.json").read_text())
    privacy = plain["privacy"]
    privacy.update(epsilon=1e300, curve=[])
    for client in privacy["clients"]:
        client["epsilon"] = 1e300
    privacy["accountants"][0]["epsilon"] = 1e300
    (files / "report.json").write_text(json.dumps(plain))
    result = call(files / "report.json", "--html", files / "a.html")
    assert result.exit_code == 1, result.output
    assert "10³⁰⁰" in (files / "a.html").read_text()


def test_a_missing_report_is_refused_with_status_two(tmp_path):
    assert call(tmp_path / "nothing").exit_code == 2


def test_a_report_without_privacy_has_nothing_to_audit(files):
    plain = json.loads((files / "report.json").read_text())
    nothing = ("epsilon", "delta", "budget", "unit", "neighbouring", "mechanism", "sampling", "noise")
    lists = ("adversaries", "trusted", "accountants", "clients", "events", "curve")
    plain["privacy"].update({**dict.fromkeys(nothing), **{name: [] for name in lists}, "mode": "none"})
    plain["proof"] = None
    (files / "report.json").write_text(json.dumps(plain))
    result = call(files / "report.json", "--html", files / "a.html")
    assert result.exit_code == 1, result.output
    (row,) = (line for line in result.stdout.splitlines() if line.startswith("fails"))
    assert row.rstrip().endswith("claim  the report claims no privacy: there is nothing to audit")
    assert "the report claims no privacy" in (files / "a.html").read_text()


def test_nothing_is_printed_where_nothing_is_asked_for_but_the_status(files):
    loud, quiet = call(files / "report.json"), call(files / "report.json", "--quiet")
    assert (quiet.exit_code, quiet.output) == (loud.exit_code, "")


def lower_epsilon(plain):
    plain["privacy"]["epsilon"] /= 2


def another_noise(plain):
    plain["config"]["privacy.noise_multiplier"] = 99.0


def without_a_round(plain):
    plain["round_log"].pop()
    plain["rounds"] -= 1
    plain["status"] = "interrupted"


def another_signature(plain):
    entries = plain["proof"]["ledgers"][1]["entries"]
    entries[0]["signatures"], entries[1]["signatures"] = entries[1]["signatures"], entries[0]["signatures"]


WALK = (
    (lower_epsilon, "consistency"),
    (another_noise, "closing"),
    (without_a_round, "closing"),
    (another_signature, "clients' ledgers"),
)


def test_an_auditor_tells_four_edited_reports_and_a_simulation_from_an_honest_one(files, world):
    """The auditor's walk, with nothing but report, roster and a ledger that a site gave."""
    honest = json.loads((files / "report.json").read_text())
    pinned, ledger = ("--roster", files / "roster.json"), ("--ledger", files / "mine.jsonl")
    first = call(files / "report.json", *pinned, *ledger, "--html", files / "honest.html")
    assert first.exit_code == 0, first.output
    assert "Do not rely" not in (files / "honest.html").read_text()
    for edit, check in WALK:
        plain = copy.deepcopy(honest)
        edit(plain)
        file = files / "edited.json"
        file.write_text(json.dumps(plain))
        result = call(file, *pinned, *ledger, "--html", files / "edited.html", "--json")
        found = json.loads(result.stdout)
        assert (result.exit_code, found["outcome"]) == (1, "refuted"), edit.__name__
        assert check in {each["name"] for each in found["checks"] if each["status"] == "fails"}, edit.__name__
        assert "Do not rely on this report" in (files / "edited.html").read_text()
    seeded = client_world("capped", noise="seeded")
    (files / "simulation.json").write_text(json.dumps(seeded.report()))
    seeded.roster.write(files / "theirs.json")
    simulation = call(files / "simulation.json", "--roster", files / "theirs.json", "--html", files / "simulation.html")
    assert simulation.exit_code == 4
    assert simulation.stdout.splitlines()[-1].startswith("Simulation: protects nobody")
    assert "simulation: protects nobody" in (files / "simulation.html").read_text()
    unreadable = call(files / "mine.jsonl", *pinned, "--json")
    assert (unreadable.exit_code, json.loads(unreadable.stdout)["exit_status"]) == (2, 2)
