import pytest

from fedtrain.flower.reasons import by_client, cause

TRACEBACK = (
    'Traceback (most recent call last):\n  File "x.py", line 1, in f\nfedtrain.errors.SiteError: no site\nand no more'
)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (TRACEBACK, "no site\nand no more"),
        ("gone", "gone"),
        ("", "no reason given"),
        ("\n \t\n", "no reason given"),
    ],
)
def test_a_reason_comes_down_to_what_the_exception_says(reason, said):
    assert cause(reason) == said


def test_a_long_reason_is_cut_and_keeps_its_beginning():
    text = cause("ValueError: begin" + "x" * 5000)
    assert text.startswith("beginxxx")
    assert text.endswith("...")
    assert len(text) < 700


def test_each_client_has_its_own_line_in_order():
    assert by_client({3: "\n", 1: TRACEBACK.replace("\nand no more", "")}) == (
        "client 1: no site\nclient 3: no reason given"
    )
