import json
import math
import re
import subprocess
import sys
from tempfile import NamedTemporaryFile

import pytest
from PIL import Image
from typer.testing import CliRunner

from fedtrain.cli.app import app
from fedtrain.config import from_flat, read_toml
from fedtrain.flower.app import shipped
from fedtrain.privacy import PrivacyPlan, epsilon_of
from fedtrain.privacy.mechanisms import mechanism_of

RECORD = {
    "privacy.mode": "record",
    "privacy.sampling_rate": 0.5,
    "privacy.epsilon": 4.0,
    "privacy.delta": 1e-3,
    "federation.rounds": 20,
    "training.local_steps": 2,
}
POISSON = {"privacy.mode": "client", "federation.clients": 40, "federation.cohort": 10, "privacy.delta": 1e-3}
CAPPED = {**POISSON, "privacy.cohorts": "capped", "privacy.max_participations": 5}


def plan_of(flat):
    experiment = from_flat(flat)
    return mechanism_of(experiment).plan(experiment)


def call(flat, *arguments):
    with NamedTemporaryFile("w", suffix=".toml") as file:
        file.write("".join(f"{key} = {json.dumps(value)}\n" for key, value in flat.items()))
        file.flush()
        return CliRunner().invoke(app, ["privacy", "plan", "-c", file.name, *map(str, arguments)])


def rows(text):
    """Return (rounds, epsilon, bar) of the table of rounds."""
    return re.findall(r"^ +(\d+) +([\d.]+)  ([#| ]+)", text, flags=re.MULTILINE)


def test_the_promise_the_noise_and_what_is_spent_are_told_before_anyone_trains():
    result = call(RECORD)
    assert (result.exit_code, result.stderr) == (0, "")
    made = plan_of(RECORD)
    assert "can hardly tell whether any one record was among those of the client" in result.stdout
    assert f"Noise multiplier {made.noise_multiplier:g}." in result.stdout
    outweighed = math.ceil((made.spec.divisor / made.noise_multiplier) ** 2)
    assert f"longest mean of contributions for a model of {outweighed:,} parameters or more." in result.stdout
    assert "Claim: all rounds spend epsilon 4.00, by dp-accounting PLD" in result.stdout
    assert re.search(r"Second opinion: all rounds spend epsilon 4\.0[01], by Opacus PRV", result.stdout)
    assert max(map(len, result.stdout.splitlines())) <= 120


def test_the_bars_grow_with_the_rounds_and_show_where_the_budget_is():
    table = rows(call(RECORD).stdout)
    assert [int(number) for number, _, _ in table] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 40]
    epsilons, bars = [float(epsilon) for _, epsilon, _ in table], [bar for _, _, bar in table]
    assert epsilons == sorted(epsilons)
    assert epsilons[-2] <= 4.0 < epsilons[-1]
    (line,) = {bar.index("|") for bar in bars}
    assert all(bar[line + 1 :].strip("#| ") == "" for bar in bars)
    assert ["#" in bar[line + 1 :] for bar in bars] == [False] * 10 + [True]
    lengths = [bar.count("#") for bar in bars]
    assert lengths == sorted(lengths)


SHARED = {"privacy.trust": "distributed", "privacy.colluders": 1, "privacy.epsilon": 4.0}
SHARED_RECORD = {**RECORD, **SHARED, "training.local_steps": 1}


@pytest.mark.parametrize("flat", [SHARED_RECORD, {**CAPPED, **SHARED}], ids=["record", "client"])
def test_shared_noise_is_compared_with_that_of_each_client_and_of_a_trusted_server(flat):
    result = call(flat, "--json")
    trusts = {row["trust"]: row for row in json.loads(result.stdout)["trusts"]}
    local, shared, central = trusts["local"], trusts["distributed"], trusts["central"]
    members, honest = 10, 6
    assert local["deviation"] == pytest.approx(central["deviation"] * members**0.5)
    # All ten shares are in the mean of a cohort, and six of them are counted; rounding costs a per cent or two.
    assert shared["deviation"] == pytest.approx(central["deviation"] * (members / honest) ** 0.5, rel=0.03)
    assert all(row["epsilon"] <= 4.0 for row in trusts.values())
    own = flat | {"privacy.trust": "", "privacy.colluders": ""}
    assert plan_of(own).noise_multiplier == pytest.approx(local["noise_multiplier"])
    text = call(flat).stdout
    assert "epsilon counts 6 shares:\nthose of 7 survivors less 1 that may collude." in text
    assert re.search(r"^distributed \* +[\d.]+ +[\d.]+ +[34]\.\d+  that no more clients collude$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 120


def test_a_plan_that_counts_on_one_share_says_that_nothing_is_gained():
    three = {**SHARED_RECORD, "federation.clients": 3, "federation.cohort": 3}
    assert "counts on one share: each client adds as much noise as it would alone" in call(three).stdout
    assert "nothing is gained" not in call({**three, "privacy.colluders": 0}).stdout
    assert "nothing is gained" not in call({**three, "transport.secagg.threshold": 3}).stdout


@pytest.mark.parametrize(
    ("flat", "words", "rates"),
    [
        (RECORD, "the server included", [0.25, 0.5, 1.0]),
        (POISSON, "but not who was drawn for them", [0.125, 0.25, 0.5]),
        (CAPPED, "the data of any one client was used", [1.0]),
    ],
)
def test_each_mode_says_who_is_protected_and_shows_the_alternatives(flat, words, rates):
    result = call(flat)
    assert words in result.stdout
    answer = json.loads(call(flat, "--json").stdout)
    made = plan_of(flat)
    assert PrivacyPlan.from_data(answer["plan"]) == made
    assert answer["digest"] == made.digest
    assert sorted({other["sampling_rate"] for other in answer["alternatives"]}) == rates
    factors = {round(other["noise_multiplier"] / made.noise_multiplier, 9) for other in answer["alternatives"]}
    assert factors == {0.5, 0.75, 1.0, 1.5, 2.0}
    (itself,) = [
        other["epsilon"]
        for other in answer["alternatives"]
        if (other["noise_multiplier"], other["sampling_rate"]) == (made.noise_multiplier, made.spec.sampling_rate)
    ]
    assert itself == answer["epsilon"] == epsilon_of([made.event(made.spec.steps)], made.spec.delta)
    assert answer["rounds"][-2] == {"rounds": made.spec.rounds, "epsilon": itself}
    assert [bound["accountant"] for bound in answer["accountants"]] == [
        "dp-accounting PLD, pessimistic",
        "Opacus PRV, upper end",
    ]


def test_adaptive_clipping_shows_the_noise_that_is_left_for_the_sum():
    flat = {**POISSON, "privacy.adaptive_clipping": True, "privacy.clipping_noise": 2.0}
    result = call(flat)
    made = plan_of(flat)
    assert f"so that the sum has {made.value_noise_multiplier:.4g}" in result.stdout
    assert made.value_noise_multiplier > made.noise_multiplier


def test_a_fallback_is_told():
    result = call({**RECORD, "privacy.delta": 1e-14, "privacy.epsilon": 8.0, "federation.rounds": 1})
    assert "by dp-accounting RDP" in result.stdout
    assert "dp-accounting PLD, pessimistic gave no bound: the rounding of" in result.stdout


SHARED = {
    **RECORD,
    "privacy.trust": "distributed",
    "privacy.colluders": 1,
    "training.batch_size": 16,
    "privacy.sampling_rate": 0.05,
    "privacy.epsilon": 8.0,
    "privacy.delta": 1e-5,
    "federation.rounds": 10,
    "transport.secagg.enabled": True,
}
del SHARED["training.local_steps"]


def test_integer_noise_that_has_no_bound_is_no_alternative():
    result = call(SHARED)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Claim: all rounds spend epsilon 7.99, by dp-accounting PLD of close Gaussians" in result.stdout
    assert re.search(r"^ +0\.\d+ +[\d.]+ +no bound +no bound$", result.stdout, flags=re.MULTILINE)
    answer = json.loads(call(SHARED, "--json").stdout)
    mine, others = answer["plan"]["noise_multiplier"], answer["alternatives"]
    assert [other["sampling_rate"] for other in others if other["noise_multiplier"] < 0.6 * mine] == [0.025]
    assert len([other for other in others if other["noise_multiplier"] == mine]) == 3


def test_rounds_beyond_all_bounds_are_left_out():
    answer = json.loads(call({**SHARED, "privacy.epsilon": 27.0}, "--json").stdout)
    assert [each["rounds"] for each in answer["rounds"]] == [*range(1, 11)]


def test_an_epsilon_that_protects_nobody_is_called_so():
    assert "protects nobody in practice" in call({**CAPPED, "privacy.epsilon": 30.0}).stdout


def test_the_plan_is_of_the_file_with_the_settings_over_it_and_needs_no_data(tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text('[privacy]\nmode = "client"\nepsilon = 3.0\n[data]\nsource = "npz"\npath = "x"\ntest_path = "y"\n')
    arguments = ["privacy", "plan", "--config", str(file), "--set", "privacy.epsilon=2.5", "--json"]
    answer = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert answer["config"] == str(file)
    assert (answer["budget"], answer["plan"]["spec"]["unit"]) == (2.5, "client")
    assert answer["epsilon"] <= 2.5


def test_a_png_is_drawn(tmp_path):
    file = tmp_path / "plan.png"
    assert call(CAPPED, "--plot", file).exit_code == 0
    with Image.open(file) as image:
        assert image.format == "PNG"
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours


@pytest.mark.parametrize(
    ("flat", "status", "message"),
    [
        ({}, 2, 'privacy.mode = "none" guarantees nothing'),
        ({**RECORD, "privacy.epsilon": 1e-6}, 2, "cannot be kept: even noise multiplier 1000"),
        ({**RECORD, "privacy.delta": 0.5}, 2, "it must be below 1 / records of a client"),
        ({**RECORD, "privacy.noise_multiplier": 1.0}, 2, "more than the budget of 4"),
        ({"privacy.epsilom": 1}, 2, "unknown key privacy.epsilom"),
        (RECORD | {"server.strategy": "Bulyan", "federation.cohort": 2}, 2, 'Bulyan" needs 3 results in a round'),
    ],
)
def test_what_cannot_be_planned_is_an_error_with_its_status(flat, status, message):
    result = call(flat)
    assert (result.exit_code, result.stdout) == (status, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    result = call(CAPPED, "--plot", tmp_path / "file" / "plan.png")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")


def test_the_group_alone_shows_its_commands():
    assert "plan" in CliRunner().invoke(app, ["privacy"]).output


def test_a_run_without_privacy_imports_no_accountant():
    program = (
        "import sys, fedtrain.privacy, fedtrain.privacy.mechanisms, fedtrain.cli.app; "
        "print(sorted({'opacus', 'dp_accounting', 'torch', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_a_file_the_demo_is_planned_as_simulate_runs_it():
    result = CliRunner().invoke(app, ["privacy", "plan", "--set", "privacy.epsilon=3"])
    assert result.exit_code == 0, result.stderr
    file = shipped() / "simulations" / "demo.toml"
    assert result.stdout.startswith(f"Without --config, this is the demo, {file}.\n\nAnyone who sees")
    made = plan_of(read_toml(file) | {"privacy.epsilon": 3.0})
    assert f"Noise multiplier {made.noise_multiplier:g}." in result.stdout
    wrong = CliRunner().invoke(app, ["privacy", "plan", "--set", "federation.cohort=11"])
    assert wrong.exit_code == 2
    assert f"without --config, --set changes the demo: see {file}" in wrong.stderr
