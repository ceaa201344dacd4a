"""Epsilon over two runs on the same ledgers, with a kill in the second, is that of the configuration alone."""

import time

import pytest
from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.pld import PLDAccountant

from tests.integration.test_resume import checkpoints, kill_group, wait_for

ROUNDS, STEPS, RATE = 4, 2, 0.5

COMMON = {
    "federation.rounds": ROUNDS,
    "federation.clients": 5,
    "federation.cohort": 5,
    "task.model": "linear",
    "training.batch_size": 144,
    "training.local_steps": STEPS,
    "privacy.epsilon": 3.0,
    "privacy.delta": 1e-4,
}
MODES = {
    "record": {"privacy.mode": "record", "privacy.sampling_rate": RATE},
    "client-poisson": {
        "privacy.mode": "client",
        "privacy.delta": 1e-2,
        "federation.cohort": 3,
        "privacy.cohorts": "poisson",
    },
    "client-capped": {
        "privacy.mode": "client",
        "privacy.delta": 1e-2,
        "privacy.cohorts": "capped",
    },
}


def independent_epsilon(settings, noise_multiplier, runs):
    """Compose what the configuration says, with nothing of ours."""
    mode = settings["privacy.mode"]
    if mode == "record":
        rate, steps = settings["privacy.sampling_rate"], settings["training.local_steps"] * ROUNDS
    elif settings["privacy.cohorts"] == "poisson":
        rate, steps = settings["federation.cohort"] / settings["federation.clients"], ROUNDS
    else:
        rate, steps = 1.0, ROUNDS
    step = dp_event.GaussianDpEvent(noise_multiplier)
    if rate < 1:
        step = dp_event.PoissonSampledDpEvent(rate, step)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-4)
    accountant.compose(dp_event.SelfComposedDpEvent(step, runs * steps))
    return accountant.get_epsilon(settings["privacy.delta"])


@pytest.mark.parametrize(
    "mode", [mode if mode == "client-poisson" else pytest.param(mode, marks=pytest.mark.slow) for mode in MODES]
)
def test_two_runs_and_a_kill_cost_what_the_configuration_says(cli, tmp_path, mode):
    settings = {**COMMON, **MODES[mode], "federation.sites": str(tmp_path / "sites")}
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "site.toml").write_text(
        f"[budget]\nepsilon = 50.0\ndelta = {settings['privacy.delta']}\n", encoding="utf-8"
    )
    # Nothing in it, so that the settings are all there is, and not changes of the demo.
    (tmp_path / "experiment.toml").touch()
    changes = [item for key, value in settings.items() for item in ("--set", f"{key}={value}")]
    arguments = ["--config", tmp_path / "experiment.toml", *changes]
    first = cli.run(*arguments, out=tmp_path / "first")
    assert first.status == 0, first.stderr

    out = tmp_path / "second"
    process = cli.begin("simulate", *arguments, "--out", out)
    wait_for(lambda: checkpoints(out), process)
    time.sleep(0.05)
    kill_group(process)
    second = cli.run(*arguments, "--resume", out=out)
    assert second.status == 0, second.stderr

    for report, runs in ((first.report, 1), (second.report, 2)):
        noise = report["privacy"]["mechanism"]["noise_multiplier"]
        expected = independent_epsilon(settings, noise, runs)
        assert report["privacy"]["epsilon"] == pytest.approx(expected, abs=1e-3)
        for client in report["privacy"]["clients"]:
            assert client["epsilon"] == pytest.approx(expected, abs=1e-3)
            assert client["unanswered"] == []
    for outcome in (first, second):
        audit = cli.here("audit", outcome.out / "report.json", "--roster", outcome.out / "roster.json", "--json")
        assert audit.status == 4, audit.stdout  # a simulation, of which no check fails
