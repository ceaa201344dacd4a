import pytest

from fedtrain.report import wording

SCHEMES = ("record", "client, Poisson cohorts", "client, capped participation")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_seeded_noise_protects_against_nobody(scheme):
    assert not any(row.bounded for row in wording.adversaries(scheme, "seeded"))
    assert any(row.bounded for row in wording.adversaries(scheme, "secure"))
    assert "protects nobody" in wording.statement(scheme, "seeded", 3.0, 1e-5)
    assert "protects nobody" not in wording.statement(scheme, "secure", 3.0, 1e-5)
    assert "for simulation only" in wording.random_source("seeded")
    assert "AES-256" in wording.random_source("secure")


@pytest.mark.parametrize(("scheme", "bounded"), list(zip(SCHEMES, (True, False, False), strict=True)))
def test_only_record_privacy_bounds_the_server(scheme, bounded):
    (server,) = [row for row in wording.adversaries(scheme, "secure") if row.who == "the server"]
    assert server.bounded is bounded
    assert any("server with every update" in text for text in wording.trusted(scheme)) is not bounded


def test_amplification_is_claimed_only_where_the_draw_is_secret():
    chosen = {scheme: wording.sampling(scheme, 1.0 if "capped" in scheme else 0.1) for scheme in SCHEMES}
    assert [entry.amplification for entry in chosen.values()] == [True, True, False]
    assert not wording.sampling("record", 1.0).amplification
    assert [entry.scheme for entry in chosen.values()] == ["Poisson, records", "Poisson, clients", "none"]
    assert any("must stay secret" in text for text in wording.trusted("client, Poisson cohorts"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_promise_has_its_numbers_rounded_up(scheme):
    text = wording.statement(scheme, "secure", 2.0001, 1e-5)
    assert "exp(2.01)" in text
    assert "10⁻⁵" in text
    assert "earlier ones" in wording.composition(scheme)
    assert wording.not_covered(scheme)


def test_the_histogram_is_named_where_it_is_shown():
    shown = set(wording.accesses_not_covered(histogram=True)) - set(wording.accesses_not_covered(histogram=False))
    assert len(shown) == 1
    assert "histogram" in shown.pop()
