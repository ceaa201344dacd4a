import pytest
from flwr.app import Message

from clients.node import open_node
from clients.reticence import reticent
from fedtrain.errors import BudgetError, ClientError, DataError
from tests.fakes import InProcessGrid

SECRET = "patient 4711 has label 3"


@pytest.fixture
def message(request_of, private):
    InProcessGrid(None, [])  # sets who this process is
    return Message(request_of(private), 1000, "train")


def raising(error):
    def call_next(_message, _context):
        raise error

    return call_next


@pytest.mark.parametrize("error", [ValueError(SECRET), KeyError(SECRET), DataError(f"row 7: {SECRET}")])
def test_what_an_exception_says_of_the_records_stays_at_the_client(private, node, message, error):
    with pytest.raises(ClientError) as caught:
        reticent(message, node(private, 0).context, raising(error))
    assert "4711" not in str(caught.value)
    assert type(error).__name__ in str(caught.value)
    # Nor is it in the chain of causes, which a traceback shows.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "4711" in (open_node(private, 0).folder / "errors.log").read_text()


def test_the_librarys_own_errors_are_passed_on(private, node, message):
    with pytest.raises(BudgetError, match="beyond the budget"):
        reticent(message, node(private, 0).context, raising(BudgetError("beyond the budget")))


def test_without_privacy_exceptions_are_the_authors(plain, node, message):
    with pytest.raises(ValueError, match="4711"):
        reticent(message, node(plain, 0).context, raising(ValueError(SECRET)))


def test_answers_are_passed_on(private, node, message):
    assert reticent(message, node(private, 0).context, lambda given, _: given) is message
