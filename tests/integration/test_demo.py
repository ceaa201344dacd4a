import json
import re
from collections import Counter
from pathlib import Path

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from safetensors.numpy import load_file

from fedtrain.report import Report
from tests.integration.conftest import once_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo(cli, once):
    return once_run(cli, once, "demo", "-c", ROOT / "simulations" / "demo.toml")


def test_the_demo_learns_within_its_budget(demo):
    report = demo.report
    assert report["evaluation"]["final"]["accuracy"] > 0.85
    assert report["privacy"]["epsilon"] <= 8
    assert report["privacy"]["delta"] == 1e-4
    assert report["rounds"] == report["planned_rounds"] == 30


def test_epsilon_follows_from_the_recorded_events_alone(demo):
    privacy = demo.report["privacy"]
    largest = 0.0
    for client in range(10):
        accountant = PLDAccountant(value_discretization_interval=1e-4)
        steps = Counter()
        for event in privacy["events"]:
            if event["client"] == client:
                gaussian = dp_event.GaussianDpEvent(event["noise_multiplier"])
                steps[dp_event.PoissonSampledDpEvent(event["sampling_rate"], gaussian)] += event["steps"]
        for step, count in steps.items():
            accountant.compose(dp_event.SelfComposedDpEvent(step, count))
        largest = max(largest, accountant.get_epsilon(privacy["delta"]))
    assert privacy["epsilon"] == pytest.approx(largest, abs=1e-3)


def test_the_run_folder_is_complete(demo):
    report = Report.model_validate_json((demo.out / "report.json").read_text())
    assert report.status == "completed"
    weights = load_file(demo.out / "model-final.safetensors").values()
    assert sum(array.size for array in weights) == report.model.parameters == 650
    lines = [json.loads(line) for line in (demo.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(31))
    best = max(lines, key=lambda line: line["accuracy"])
    assert report.evaluation.best.accuracy == best["accuracy"]
    assert lines[-1]["epsilon"] >= report.privacy.epsilon
    assert {"config.toml", "report.html", "model-best.safetensors", "checkpoints"} <= {
        p.name for p in demo.out.iterdir()
    }


def test_the_html_report_is_self_contained(demo):
    html = (demo.out / "report.html").read_text()
    assert "<svg" in html
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", html)
    assert "@import" not in html


def test_the_screen_shows_rounds_and_a_table(demo):
    last = r"round 30/30  clients 10/10  accuracy 0\.\d{4} \(baseline 0\.\d{4}\)  epsilon \d\.\d{3}  time left 0 s"
    assert re.search(last, demo.stdout)
    assert demo.stdout.rstrip().endswith(f"report: {demo.out / 'report.html'}")
    # What takes longer than two seconds says so, on a busy machine.
    assert re.fullmatch(r"(.* \(\d+ s\)\n)*", demo.stderr)


def test_a_run_can_be_watched_by_its_folder(cli, demo):
    shown = cli.call("watch", demo.out)
    assert shown.status == 0
    assert re.search(
        r"^demo: completed\nround +30 of 30\naccuracy +0\.\d{4} \(baseline 0\.\d{4}\)\nepsilon +\d\.\d\d of 6 at",
        shown.stdout,
    )
    found = json.loads(cli.call("watch", demo.out, "--json").stdout)
    assert found["value"] == demo.report["evaluation"]["final"]["accuracy"]
    assert found["epsilon"] >= demo.report["privacy"]["epsilon"]
    assert len(found["history"]) == 30


def test_nothing_private_is_in_the_records_of_a_private_run(demo):
    text = "".join((demo.out / name).read_text() for name in ("metrics.jsonl", "report.json", "events.jsonl"))
    assert "train_loss" not in text
    assert "num-examples" not in text
