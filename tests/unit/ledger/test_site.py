import pytest

from fedtrain.errors import SiteError
from fedtrain.ledger import SitePolicy, read_policy

BUDGET = "[budget]\nepsilon = 8\ndelta = 1e-5\n"


def test_a_site_file_is_read(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text(BUDGET)
    assert read_policy(path) == SitePolicy(epsilon=8.0, delta=1e-5, minimum_noise=0.0, modes=("record", "client"))
    path.write_text(BUDGET + '[policy]\nminimum_noise = 1.1\nmodes = ["record"]\n')
    assert read_policy(path) == SitePolicy(epsilon=8.0, delta=1e-5, minimum_noise=1.1, modes=("record",))
    path.write_text(BUDGET + "[policy]\nmodes = []\n")
    assert read_policy(path).modes == ()


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
