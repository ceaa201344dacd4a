"""The frontier: its reports audit, its tables are those of its reports, and a point that is there is not run again."""

import json
import shutil
from pathlib import Path

import pytest

from fedtrain.audit import audit_bytes

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "simulations" / "results" / "frontier"
REPORTS = sorted(RESULTS.glob("*.json.xz"))
LARGE = 100_000  # bytes; a smaller report is audited in well under a second
VECTORS = sorted((ROOT / "tests" / "vectors" / "reports").glob("*.json"))


@pytest.mark.parametrize("file", VECTORS, ids=lambda file: file.stem)
def test_a_packed_report_is_small_and_comes_back(script, file):
    stored = script("stored")
    text = json.loads(file.read_text())["report"]
    report = (text if isinstance(text, str) else json.dumps(text)).encode()
    packed = stored.pack(report)
    assert len(packed) < len(report) / 3
    assert json.loads(stored.unpack(packed)) == json.loads(report)


def test_what_was_signed_of_a_packed_report_is_what_comes_back(script):
    stored = script("stored")
    text = json.loads(VECTORS[0].read_text())["report"]
    report = json.loads(text) if isinstance(text, str) else text
    entries = report["proof"]["ledgers"][0]["entries"]
    entries[0], entries[1] = entries[1], entries[0]  # the chain is broken: a digest is not that of the entry before
    assert json.loads(stored.unpack(stored.pack(json.dumps(report).encode()))) == report


def test_reports_are_those_of_points_and_small(script):
    points, workloads = script("points"), script("workloads")
    expected = {
        point.file for workload in (points.WORKLOADS | workloads.OTHERS).values() for point in points.points(workload)
    }
    assert {file.name for file in REPORTS} <= expected
    assert sum(file.stat().st_size for file in REPORTS) < 18_000_000


def audited(script, file):
    data = script("stored").unpack(file.read_bytes())
    if json.loads(data)["privacy"]["mode"] == "none":
        return
    _, verdict = audit_bytes(data, roster=None)
    assert verdict.outcome == "simulation", verdict.summary


@pytest.mark.parametrize(
    "file",
    [file for file in REPORTS if file.stat().st_size < LARGE and "seed1." in file.name],
    ids=lambda file: file.name,
)
def test_a_stored_report_audits_as_a_simulation(script, file):
    audited(script, file)


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in REPORTS if file.stat().st_size >= LARGE], ids=lambda file: file.name)
def test_a_large_stored_report_audits_as_a_simulation(script, file):
    audited(script, file)


def test_the_tables_are_those_of_the_reports(script):
    frontier = script("frontier")
    found = frontier.all_finished()
    assert [reached.point.file for reached in found]
    assert (RESULTS / "frontier.csv").read_text() == frontier.as_csv(found)
    assert (RESULTS / "frontier.md").read_text() == frontier.as_markdown(found)
    table = frontier.as_markdown(found)
    assert table in (ROOT / "README.md").read_text()


def test_a_report_of_other_settings_is_not_that_of_the_point(script, tmp_path, monkeypatch):
    frontier, points = script("frontier"), script("points")
    monkeypatch.setattr(frontier, "RESULTS", tmp_path)
    first, second = points.points(points.WORKLOADS["digits"])[:2]
    shutil.copy(RESULTS / first.file, tmp_path / first.file)
    shutil.copy(RESULTS / first.file, tmp_path / second.file)
    assert frontier.finished(first).point == first
    assert frontier.finished(second) is None


def test_a_point_is_run_audited_kept_and_not_run_again(script, tmp_path, monkeypatch):
    frontier, points = script("frontier"), script("points")
    monkeypatch.setattr(frontier, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(frontier, "RESULTS", tmp_path / "results")
    tiny = {"data.max_records": 200, "federation.rounds": 1, "federation.clients": 3, "federation.cohort": 3}
    series = points.Series(trust="distributed", what="linear", settings=tiny | {"privacy.delta": 1e-3}, at={4: {}})
    workload = points.Workload(
        name="tiny", title="Tiny", config="digits_shared", seeds=(1,), series={"distributed": series}
    )
    (point,) = points.points(workload)
    reached = frontier.reach(point, workers=1)
    assert reached.rounds == 1
    assert 0 < reached.epsilon <= 4
    monkeypatch.setattr(frontier, "simulate", lambda *_arguments, **_options: pytest.fail("it was run again"))
    assert frontier.reach(point) == reached
