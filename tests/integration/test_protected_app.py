"""The example of a Flower app that is protected in ten lines: on the local engine, on a SuperLink, and without them."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.integration.superlink import Federation, Recording, everything, readable, windows

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "protected_app"
MARK = "# + fedtrain"
CLIENTS, ROUNDS = 3, 2


def sources(folder):
    return sorted((folder / "protected_app").glob("*.py"))


def lines(folder):
    return [line for path in sources(folder) for line in path.read_text().splitlines()]


def small(folder):
    """Copy the example for a few clients."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    change(folder / "protected_app" / "task.py", {r"\b(clients|cohort)=50\b": rf"\1={CLIENTS}"}, count=2)
    return folder


def change(path, replacements, *, count=1):
    """Replace what each pattern finds in a file, so many times."""
    text = path.read_text()
    for pattern, new in replacements.items():
        text, found = re.subn(pattern, new, text, flags=re.MULTILINE)
        assert found == count, pattern
    path.write_text(text)


def without_noise(folder):
    """Copy the example so that updates are sealed and summed, and arrays are kept at home by those who have them."""
    app = small(folder) / "protected_app"
    save = "np.savez(Path.home() / {}, **{{name: array.numpy() for name, array in {}.items()}})"
    imports = {r"^from flwr.app import": r"from pathlib import Path\n\nimport numpy as np\n\g<0>"}
    change(app / "task.py", {", client_privacy=PRIVACY": ""})
    change(
        app / "client_app.py",
        imports
        | {
            r"^    metrics = \{\"train_loss\".*": r"\g<0>\n    number = context.node_config['partition-id']\n    "
            + save.format("f'trained-{number}.npz'", "model_record")
        },
    )
    change(
        app / "server_app.py",
        imports
        | {
            r"^    global_model = Net\(\)": r"    import torch\n\n    torch.manual_seed(0)\n\g<0>",
            r"^    arrays = .*": r"\g<0>\n    " + save.format("'initial.npz'", "arrays"),
            r"^    print\(\"epsilon.*": "    grid.close()\n    " + save.format("'final.npz'", "result.arrays"),
        },
    )
    return folder


@pytest.fixture
def at_home(cli, tmp_path):
    """Return the command with a home of its own, where the example keeps its keys."""
    return cli.at_home(tmp_path)


def simulate(cli, app, rounds=ROUNDS):
    done = cli.call("simulate", app, "--nodes", CLIENTS, "--workers", 1, "--set", f"num-server-rounds={rounds}")
    assert done.status == 0, done.stderr
    return done.stdout


def test_the_protection_is_ten_lines_at_most_and_the_rest_knows_nothing_of_it():
    marked = [line for line in lines(EXAMPLE) if line.endswith(MARK)]
    assert 0 < len(marked) <= 10
    rest = "\n".join(line for line in lines(EXAMPLE) if not line.endswith(MARK))
    for word in ("fedtrain", "PROTECTION", "PRIVACY", "protect_", " import task"):
        assert word not in rest


@pytest.mark.slow
def test_without_the_lines_the_app_runs_unprotected(at_home, tmp_path):
    app = small(tmp_path / "app")
    for path in sources(app):
        kept = [line for line in path.read_text().splitlines() if not line.endswith(MARK)]
        path.write_text("\n".join(kept))
    stdout = simulate(at_home, app)
    assert float(re.search(r"final accuracy (\S+)", stdout)[1]) > 0.8
    assert "epsilon" not in stdout
    assert not (tmp_path / ".fedtrain").exists()


@pytest.mark.slow
def test_with_the_lines_it_is_protected_on_the_local_engine(at_home, tmp_path):
    app = small(tmp_path / "app")
    task = app / "protected_app" / "task.py"
    # Few clients with little noise: that the app still learns is what is looked at.
    task.write_text(task.read_text().replace("epsilon=8.0", "epsilon=100.0"))
    stdout = simulate(at_home, app)
    assert float(re.search(r"final accuracy (\S+)", stdout)[1]) > 0.3
    assert 0 < float(re.search(r"epsilon (\S+)", stdout)[1]) <= 100
    folder = tmp_path / ".fedtrain" / "protected"
    names = {path.name for path in folder.iterdir()}
    assert names == {"server", "rosters", *(f"client-{client}" for client in range(CLIENTS))}
    assert (folder / "server" / "participations.json").exists()
    assert not list(folder.glob("client-*/sessions/*/*/secret"))


def kept(home, name):
    """Return arrays that somebody kept at home."""
    with np.load(home / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def recorded(cli, once):
    """Run a round of three SuperNodes on a SuperLink, with a home that all of them share."""

    def make(folder):
        home = folder / "user"
        home.mkdir()
        environment = {**cli.environment, "HOME": str(home)}
        with Federation(folder / "federation", nodes=CLIENTS, environment=environment, warm=False) as federation:
            app, clients = without_noise(folder / "app"), home / ".fedtrain" / "protected"
            federation.record_app(folder, app, {"num-server-rounds": 1}, clients=clients)

    return Recording(once("superlink-protected", make))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_a_superlink_no_update_of_it_can_be_read(recorded):
    home = recorded.folder / "user"
    before = kept(home, "initial")
    trained = [kept(home, f"trained-{client}") for client in range(CLIENTS)]
    updates = [after[name] - before[name] for after in trained for name in before]
    needles = windows([*before.values(), *(array for after in trained for array in after.values()), *updates])
    assert len(needles) > 200
    assert not readable(needles, *everything(recorded))
    # What was sent is there, and other than that: models and updates of this size, and nothing that is like them.
    size = sum(array.nbytes for array in before.values())
    assert len(recorded.uplink) > CLIENTS * size
    assert len(recorded.database) > CLIENTS * size
    assert len(recorded.secrets) == CLIENTS
    assert not list(home.glob(".fedtrain/protected/client-*/sessions/*/*/secret"))
    for secret in recorded.secrets:
        assert not readable({secret, secret.hex().encode()}, *everything(recorded))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_a_superlink_it_trains_to_what_it_does_on_the_local_engine(recorded, at_home, tmp_path):
    remote = recorded.folder / "user"
    simulate(at_home, without_noise(tmp_path / "app"), rounds=1)
    mine, theirs, before = kept(remote, "final"), kept(tmp_path, "final"), kept(remote, "initial")
    assert mine.keys() == theirs.keys() == before.keys()
    for name in before:
        # Roundings of updates are 1/32767 of the largest change each.
        np.testing.assert_allclose(mine[name], theirs[name], atol=1e-4)
        mean = np.mean([kept(remote, f"trained-{client}")[name] for client in range(CLIENTS)], axis=0)
        np.testing.assert_allclose(mine[name], mean, atol=1e-4)
        assert np.abs(mine[name] - before[name]).max() > 1e-2
