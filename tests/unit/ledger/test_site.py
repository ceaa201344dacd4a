from pathlib import Path

import pytest

from fedtrain.config import from_flat
from fedtrain.errors import ConfigError, SiteError
from fedtrain.ledger import SitePolicy, client_folder, find_policy, read_policy
from fedtrain.ledger.site import read_site_file

BUDGET = "[budget]\nepsilon = 8\ndelta = 1e-5\n"


def test_a_site_file_is_read(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text(BUDGET)
    assert read_policy(path) == SitePolicy(
        epsilon=8.0, delta=1e-5, minimum_noise=0.0, modes=("record", "client"), noise=("seeded", "secure")
    )
    path.write_text(BUDGET + '[policy]\nminimum_noise = 1.1\nmodes = ["record"]\n')
    assert read_policy(path) == SitePolicy(epsilon=8.0, delta=1e-5, minimum_noise=1.1, modes=("record",))
    path.write_text(BUDGET + "[policy]\nmodes = []\n")
    assert read_policy(path).modes == ()
    path.write_text(BUDGET + '[policy]\nmodes = ["none", "record"]\nnoise = ["secure"]\n')
    assert read_policy(path) == SitePolicy(epsilon=8.0, delta=1e-5, modes=("none", "record"), noise=("secure",))
    path.write_text(BUDGET + '[policy]\ntasks = ["vision", "own:task"]\n[data]\nsource = "npz"\nmore = [1]\n')
    assert read_policy(path) == SitePolicy(epsilon=8.0, delta=1e-5, tasks=("vision", "own:task"))
    path.write_text(BUDGET + "[policy]\ntasks = []\n[transport]\nsealed = false\nsecagg = true\nminimum_cohort = 5\n")
    assert read_policy(path) == SitePolicy(
        epsilon=8.0, delta=1e-5, tasks=(), sealed=False, secagg=True, minimum_cohort=5
    )


def test_noise_that_clients_share_is_allowed_by_name_alone(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text(BUDGET)
    assert (read_policy(path).trust, read_policy(path).colluders) == (("local", "central"), 0)
    path.write_text(BUDGET + '[policy]\ntrust = ["distributed"]\ncolluders = 2\n')
    assert (read_policy(path).trust, read_policy(path).colluders) == (("distributed",), 2)
    path.write_text(BUDGET + '[policy]\ntrust = ["anybody"]\n')
    with pytest.raises(SiteError, match=r"policy\.trust\.0"):
        read_policy(path)


def test_what_a_site_file_does_not_say_is_told_apart_from_no(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text(BUDGET)
    policy = read_policy(path)
    assert (policy.tasks, policy.sealed, policy.secagg) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "budget"),
        ("[budget]\nepsilon = 8\n", "budget.delta"),
        ("[budget]\nepsilon = 0\ndelta = 1e-5\n", "budget.epsilon"),
        ("[budget]\nepsilon = inf\ndelta = 1e-5\n", "budget.epsilon"),
        ("[budget]\nepsilon = nan\ndelta = 1e-5\n", "budget.epsilon"),
        ("[budget]\nepsilon = '8'\ndelta = 1e-5\n", "budget.epsilon"),
        ("[budget]\nepsilon = true\ndelta = 1e-5\n", "budget.epsilon"),
        ("[budget]\nepsilon = 8\ndelta = 0\n", "budget.delta"),
        ("[budget]\nepsilon = 8\ndelta = 1\n", "budget.delta"),
        (BUDGET + "epsilom = 1\n", "budget.epsilom"),
        (BUDGET + "[polizy]\n", "polizy"),
        (BUDGET + "[policy]\nminimum_noize = 1\n", "policy.minimum_noize"),
        (BUDGET + "[policy]\nminimum_noise = -1\n", "policy.minimum_noise"),
        (BUDGET + '[policy]\nmodes = ["records"]\n', "policy.modes.0"),
        (BUDGET + '[policy]\nmodes = "record"\n', "policy.modes"),
        (BUDGET + '[policy]\nnoise = ["none"]\n', "policy.noise.0"),
        (BUDGET + '[policy]\nnoise = "secure"\n', "policy.noise"),
        (BUDGET + '[policy]\ntasks = "vision"\n', "policy.tasks"),
        (BUDGET + "[policy]\ntasks = [1]\n", "policy.tasks.0"),
        (BUDGET + "[transport]\nsealed = 1\n", "transport.sealed"),
        (BUDGET + "[transport]\nminimum_cohort = 1\n", "transport.minimum_cohort"),
        ("data = 3\n" + BUDGET, "data"),
    ],
)
def test_a_site_file_with_anything_else_is_refused(tmp_path, text, where):
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(SiteError, match=rf"{path} cannot be used:\n(.*\n)*  {where}: "):
        read_policy(path)


def test_what_is_no_toml_is_named(tmp_path):
    path = tmp_path / "site.toml"
    for data in (b"[budget", b"\xff"):
        path.write_bytes(data)
        with pytest.raises(SiteError, match=f"{path} is not TOML"):
            read_policy(path)
    with pytest.raises(SiteError, match="No such file"):
        read_policy(tmp_path / "missing")


def test_a_clients_own_site_file_comes_before_that_of_all(tmp_path):
    folder = tmp_path / "client-0000"
    assert find_policy(folder) is None
    (tmp_path / "site.toml").write_text("[budget]\nepsilon = 1\ndelta = 1e-5\n")
    assert find_policy(folder) == SitePolicy(epsilon=1.0, delta=1e-5)
    folder.mkdir()
    assert find_policy(folder) == SitePolicy(epsilon=1.0, delta=1e-5)
    (folder / "site.toml").write_text("[budget]\nepsilon = 2\ndelta = 1e-5\n")
    assert find_policy(folder) == SitePolicy(epsilon=2.0, delta=1e-5)


def test_a_site_file_that_cannot_be_used_is_not_passed_over(tmp_path):
    folder = tmp_path / "client-0000"
    folder.mkdir()
    (tmp_path / "site.toml").write_text(BUDGET)
    (folder / "site.toml").write_text("[budget]")
    with pytest.raises(SiteError, match=f"{folder}/site.toml cannot be used"):
        find_policy(folder)
    (folder / "site.toml").unlink()
    (folder / "site.toml").mkdir()
    with pytest.raises(SiteError, match=f"cannot read the site file {folder}/site.toml: Is a directory"):
        find_policy(folder)


def test_a_link_to_nothing_is_not_passed_over(tmp_path):
    (tmp_path / "client").mkdir()
    (tmp_path / "site.toml").write_text("[budget]\nepsilon = 1.0\ndelta = 1e-5\n")
    (tmp_path / "client" / "site.toml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SiteError, match="is a link to a file that is not there"):
        find_policy(tmp_path / "client")


@pytest.mark.parametrize(
    ("flat", "folder"),
    [
        ({"output.directory": "run"}, "run/clients/client-0003"),
        ({"output.directory": "run", "federation.sites": "sites"}, "sites/client-0003"),
        ({"federation.sites": "sites"}, "sites/client-0003"),
    ],
)
def test_the_folder_of_a_client(flat, folder):
    assert client_folder(from_flat(flat), 3) == Path(folder)


def test_a_ledger_needs_a_place():
    with pytest.raises(ConfigError, match=r"set federation.sites, or output.directory"):
        client_folder(from_flat({}), 3)


def test_a_site_is_named_where_its_file_names_it(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text(BUDGET)
    assert read_site_file(path).name is None
    path.write_text(BUDGET + '[site]\nname = "St. Mary\'s Hospital"\n')
    assert read_site_file(path).name == "St. Mary's Hospital"


@pytest.mark.parametrize(
    "name", ['""', '"a\\nb"', '" a"', '"\\u202Eevil"', '"\\u115F"', '"\\u3164"', '"\\uFF21"', f'"{"x" * 101}"', "3"]
)
def test_a_name_that_is_not_one_visible_line_is_refused(tmp_path, name):
    path = tmp_path / "site.toml"
    path.write_text(BUDGET + f"[site]\nname = {name}\n")
    with pytest.raises(SiteError, match=r"site\.name"):
        read_site_file(path)
