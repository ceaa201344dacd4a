from fedtrain.health.versions import _version, compare, installed

FOUND = {"fedtrain": "0.1.0", "flwr": "1.41.0", "torch": "2.13.0"}
ASKED = ["flwr==1.41.0", "torch<2.14,>=2.9", 'flwr[simulation]==1.41.0; extra == "ray"']


def test_what_is_installed_here_is_right():
    check = installed()
    assert check.status == "ok"
    assert "flwr 1.41.0" in check.detail


def test_all_as_asked():
    assert compare("3.11.7", FOUND, ASKED).detail == "Python 3.11.7, fedtrain 0.1.0, flwr 1.41.0, torch 2.13.0"


def test_another_version_of_what_is_pinned():
    check = compare("3.11.7", {**FOUND, "flwr": "1.42.0"}, ASKED)
    assert check.status == "fails"
    assert "pip install flwr==1.41.0" in check.detail


def test_something_is_missing():
    assert _version("no-package-of-this-name") is None
    check = compare("3.11.7", {**FOUND, "torch": None}, ASKED)
    assert check.status == "fails"
    assert check.detail.startswith("torch is not installed")
