"""The section of an experiment in which its operator says what a report cannot show."""

from typing import Annotated

from pydantic import AfterValidator, Field

from fedtrain.config.sections import Section
from fedtrain.config.toml import Line


def _shown(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"{value!r} has a letter that cannot be seen, or that turns the direction of writing")
    return value


Text = Annotated[Line, Field(max_length=1000), AfterValidator(_shown)]


class Statements(Section):
    """What the operator says of the run, for its report. In a private run it is signed; nobody verifies it."""

    operator: Text | None = Field(None, description="who runs the federation")
    contact: Text | None = Field(None, description="who answers questions about it, and how they are reached")
    purpose: Text | None = Field(None, description="what the model is for")
    intended_use: Text | None = Field(None, description="who may use it, where, and for which decisions")
    limits: Text | None = Field(None, description="what it is not for, and for whom it works less well")
    data_origin: Text | None = Field(None, description="where the records are from, and how they were collected")
    people: Text | None = Field(
        None, description="how records and people go together, such as how many records one person has"
    )
    reference: Text | None = Field(
        None, description="a result to compare with, such as that of another run without privacy"
    )
