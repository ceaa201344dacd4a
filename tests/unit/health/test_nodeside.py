from fedtrain.health import ok
from fedtrain.health.nodeside import node_checks
from tests.unit.health import folders, pki

BEFORE_THE_SITE = [
    "versions",
    "permissions",
    "folder",
    "CA",
    "identity",
    "SuperNode key",
    "request",
    "membership",
    "admitted",
]
ONLINE = ["DNS", "TCP", "TLS", "health", "clock"]


def statuses(node):
    """Judge all but what is this machine's, and the site's own part, which has no data here."""
    asked = []

    def ask(asking):
        asked.append(asking)
        return ok("registered", "asked")

    found = {check.name: check.status for check in node_checks(node, ask)}
    assert len(asked) == ("registered" in found)
    for name in ("disk", "site file", "bundles", "ledgers", "data"):
        found.pop(name)
    return found


def test_a_node_in_order(tmp_path, members, ca):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1")) as port:
        node = folders.node_folder(tmp_path / "node", members, ca, address=f"127.0.0.1:{port}")
        found = statuses(node)
    assert found == dict.fromkeys([*BEFORE_THE_SITE, *ONLINE, "registered"], "ok")


def test_a_node_without_a_network_is_checked_as_far_as_it_goes(tmp_path, members, ca):
    node = folders.node_folder(tmp_path / "node", members, ca, address="fl.invalid:9443")
    found = statuses(node)
    assert found == {**dict.fromkeys(BEFORE_THE_SITE, "ok"), "DNS": "fails", "connection": "warns"}


def test_a_kit_whose_keys_were_not_made_yet(tmp_path, members, ca):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1")) as port:
        node = folders.node_folder(tmp_path / "node", members, ca, address=f"127.0.0.1:{port}")
        node.identity.unlink()
        node.supernode_key.unlink()
        found = statuses(node)
    assert {name for name, status in found.items() if status == "fails"} == {"identity", "SuperNode key"}
    assert not {"request", "admitted", "registered"} & found.keys()


def test_a_kit_without_its_ca(tmp_path, members, ca):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1")) as port:
        node = folders.node_folder(tmp_path / "node", members, ca, address=f"127.0.0.1:{port}")
        node.ca.unlink()
        found = statuses(node)
    assert {name for name, status in found.items() if status == "fails"} == {"CA", "TLS"}
