import json
import warnings

import pytest
import tomli_w

from fedtrain.crypto import Identity
from fedtrain.ledger import Ledger, SitePolicy
from fedtrain.privacy import SampledGaussian, epsilon_of

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app

EVENT = SampledGaussian(sampling_rate=0.1, noise_multiplier=2.0, steps=5)
SITE = "[budget]\nepsilon = 1.0\ndelta = 1e-4\n"


@pytest.fixture
def sites(tmp_path):
    """Return a folder of two sites, of which the first has spent in two runs and the second in none."""
    folder = tmp_path / "run" / "clients"
    for number, rounds in ((0, 3), (1, 0)):
        node = folder / f"client-{number:04d}"
        identity = Identity.load_or_create(node / "identity.pem")
        with Ledger.open(node / "ledgers", dataset=str(number) * 64, identity=identity) as ledger:
            for index in range(rounds):
                ledger.reserve(
                    run=f"run-{index % 2}",
                    round_number=index + 1,
                    plan="a" * 64,
                    model="b" * 64,
                    event=EVENT,
                    repeatable=True,
                    unit="record",
                    noise="seeded",
                )
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["budget", *map(str, arguments)])


def rows(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["datasets"]


def test_what_is_spent_and_left_of_the_sites_budget(sites):
    (sites / "site.toml").write_text(SITE)
    (first,) = rows(sites)
    assert (first["client"], first["dataset"], first["runs"], first["rounds"]) == ("client-0000", "0" * 64, 2, 3)
    assert first["spent"] == pytest.approx(epsilon_of([EVENT] * 3, 1e-4), rel=1e-9)
    assert (first["budget"], first["delta"]) == (1.0, 1e-4)
    # One more would fit if, and only if, the epsilon of one more is within the budget.
    fits = first["fits"]
    assert epsilon_of([EVENT] * (3 + fits), 1e-4) <= 1.0 < epsilon_of([EVENT] * (4 + fits), 1e-4)


def test_a_clients_own_site_file_goes_before_that_of_all(sites):
    (sites / "site.toml").write_text(SITE)
    (sites / "client-0000" / "site.toml").write_text(SITE.replace("1.0", "0.5"))
    assert rows(sites / "client-0000")[0]["budget"] == 0.5


def test_the_rounds_of_an_experiment(sites, tmp_path):
    (sites / "site.toml").write_text(SITE.replace("1.0", "5.0"))
    experiment = {"privacy": {"mode": "record", "epsilon": 2.0, "delta": 1e-4, "sampling_rate": 0.2}}
    (tmp_path / "exp.toml").write_text(tomli_w.dumps(experiment))
    few = rows(sites, "--config", tmp_path / "exp.toml", "--set", "federation.rounds=2")[0]["fits"]
    many = rows(sites, "--config", tmp_path / "exp.toml", "--set", "federation.rounds=50")[0]["fits"]
    assert 2 <= few < many


def test_without_a_site_file_the_budget_is_that_of_the_run(sites, tmp_path):
    missing = run(sites)
    assert missing.exit_code == 2
    assert "has no site.toml" in missing.stderr
    config = {"privacy": {"mode": "record", "epsilon": 3.0, "delta": 1e-4, "sampling_rate": 0.2}}
    (tmp_path / "run" / "config.toml").write_text(tomli_w.dumps(config))
    assert rows(sites)[0]["budget"] == 3.0


def test_the_table_never_shows_more_than_is_left(sites):
    (sites / "site.toml").write_text(SITE)
    shown = run(sites)
    assert shown.exit_code == 0
    line = next(line.split() for line in shown.stdout.splitlines() if "client-0000" in line)
    spent, left = float(line[4]), float(line[5])
    exact = epsilon_of([EVENT] * 3, 1e-4)
    assert exact <= spent <= exact + 0.01
    assert left <= 1.0 - exact


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "holds no ledgers"),
        (lambda folder: (folder / "client-0000" / "ledgers").mkdir(parents=True), "there is no key file"),
    ],
)
def test_a_folder_that_is_none(tmp_path, prepare, message):
    (tmp_path / "site.toml").write_text(SITE)
    prepare(tmp_path)
    result = run(tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_damaged_ledger_is_refused(sites):
    (sites / "site.toml").write_text(SITE)
    file = next((sites / "client-0000" / "ledgers").glob("*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b"payload", b"paylaod", 1))
    result = run(sites)
    assert result.exit_code == 1
    assert "damaged" in result.stderr


def test_the_policy_of_a_site_has_no_defaults_for_its_budget():
    with pytest.raises(ValueError, match="epsilon"):
        SitePolicy(delta=1e-5)


def test_a_run_with_secret_cohorts_is_reserved_as_a_whole(sites):
    (sites / "site.toml").write_text(SITE.replace("1.0", "9.0"))
    secret = ("privacy.mode=client", "privacy.delta=1e-2", "privacy.epsilon=2", "federation.rounds=4")
    (row,) = rows(sites, *(word for setting in secret for word in ("--set", setting)))
    assert row["unit"] == "run"
    assert 1 <= row["fits"] < 20


def test_an_experiment_without_privacy_spends_nothing(sites):
    result = run(sites, "--set", "privacy.mode=none")
    assert result.exit_code == 2
    assert 'privacy.mode = "none" spends no budget' in result.stderr


def test_the_folder_can_be_the_current_one(sites, monkeypatch):
    (sites / "site.toml").write_text(SITE)
    monkeypatch.chdir(sites / "client-0000")
    assert rows(".")[0]["budget"] == 1.0
