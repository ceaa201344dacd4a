import pytest

from fedtrain.config import from_flat
from fedtrain.errors import ConfigError


@pytest.mark.parametrize("letter", ["\u202e", "\u200b", "\u2066", "\x9b", "\u2028", "\ufeff"])
def test_what_an_operator_says_is_seen_as_it_is_written(letter):
    assert from_flat({"report.contact": "größe <a@b.example>"}).report.contact == "größe <a@b.example>"
    with pytest.raises(ConfigError, match=r"report\.contact.*cannot be seen, or that turns"):
        from_flat({"report.contact": f"a{letter}b"})
