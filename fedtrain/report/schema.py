"""The report of a run, as written to ``report.json`` and read back.

``report.model_dump_json()`` writes it, ``Report.model_validate_json(text)`` reads and checks it, and
``Report.model_json_schema()`` describes it to other programs. docs/reference/report.md lists every field.
"""

from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from fedtrain.report.base import Count, NotNegative, Part, Round, Scalar, ascending
from fedtrain.report.evaluation import Evaluations
from fedtrain.report.privacy import Privacy

SCHEMA: Final = "fedtrain.report/1"


class DataSummary(Part):
    """The records. In a deployment the server does not know what only the clients know: that is null."""

    kind: str = Field(description="image or table")
    shape: tuple[Round, ...] = Field(description="shape of one record")
    classes: tuple[str, ...] = Field(description="names of the classes; a label is an index into them")
    train_records: Count | None = Field(description="training records of all clients; null in a deployment")
    test_records: Count = Field(description="test records, which no client sees")
    clients: Count = Field(description="clients in the federation")
    histogram: tuple[tuple[Count, ...], ...] | None = Field(
        description="training records, a row for each client and a column for each class; simulation only, read "
        "directly from the data and so not covered by epsilon; null in a deployment"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.histogram is None:
            return self
        if len(self.histogram) != self.clients:
            raise ValueError(f"histogram has {len(self.histogram)} rows for {self.clients} clients")
        if any(len(row) != len(self.classes) for row in self.histogram):
            raise ValueError(f"histogram has a row that is not of {len(self.classes)} classes")
        counted = sum(map(sum, self.histogram))
        if self.train_records is None or counted > self.train_records:
            raise ValueError(f"histogram counts {counted} records, train_records = {self.train_records}")
        return self


class Dropped(Part):
    """A client whose result a round did not use."""

    client: Count = Field(description="the client")
    reason: str = Field(description="why")


class RoundEntry(Part):
    """One round."""

    round: Round = Field(description="the round, from 1")
    cohort: tuple[Count, ...] = Field(description="clients that were asked")
    completed: tuple[Count, ...] = Field(description="clients whose results were used")
    dropped: tuple[Dropped, ...] = Field(description="clients whose results were not used")
    learning_rate: NotNegative = Field(description="learning rate of the clients in this round")
    seconds: NotNegative = Field(description="duration of the round")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        answered = [*self.completed, *(entry.client for entry in self.dropped)]
        if len(set(answered)) != len(answered) or not set(answered) <= set(self.cohort):
            raise ValueError(f"round {self.round}: completed and dropped are to name clients of the cohort, each once")
        return self


class ModelFile(Part):
    """A file of weights in the run folder."""

    file: str = Field(description="its name, relative to the run folder")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="SHA-256 of its bytes, in hexadecimal")


class ModelSummary(Part):
    """The trained model."""

    parameters: Count = Field(description="trained numbers in the model")
    final: ModelFile | None = Field(description="weights after the last round; null if none were saved")
    best: ModelFile | None = Field(description="weights of evaluation.best; null if none were saved")


class Report(Part):
    """What a run did, what it reached, and what it promises."""

    schema_: Literal["fedtrain.report/1"] = Field(alias="schema", description="the version of this format")
    fedtrain: str = Field(description="version of fedtrain that wrote it")
    name: str = Field(description="the experiment's name")
    created: AwareDatetime = Field(description="when it was written: ISO 8601, UTC")
    status: Literal["completed", "interrupted", "failed"] = Field(description="how the run ended")
    reason: str | None = Field(description="why it did not complete; null if it did")
    rounds: Count = Field(description="rounds completed")
    planned_rounds: Count = Field(description="rounds configured")
    seconds: NotNegative = Field(description="duration of the run")
    config: dict[str, Scalar] = Field(description="every configuration field by its dotted key; empty if unset")
    evaluation: Evaluations = Field(description="how good the model is")
    privacy: Privacy = Field(description="what is promised to the owners of the records")
    data: DataSummary = Field(description="the records")
    round_log: tuple[RoundEntry, ...] = Field(description="every round")
    model: ModelSummary = Field(description="the trained model")
    software: dict[str, str] = Field(description="versions of what it ran on, by name")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.created.utcoffset() != timedelta(0):
            raise ValueError(f"created = {self.created.isoformat()} is not in UTC")
        if self.rounds > self.planned_rounds:
            raise ValueError(f"rounds = {self.rounds} is more than planned_rounds = {self.planned_rounds}")
        if self.status == "completed" and (self.rounds != self.planned_rounds or self.reason is not None):
            raise ValueError('status = "completed" needs all planned rounds, and no reason')
        if self.status == "failed" and self.reason is None:
            raise ValueError('status = "failed" needs a reason')
        if not ascending(tuple(entry.round for entry in self.round_log)):
            raise ValueError("round_log is not in the order of the rounds, each once")
        if self.evaluation.history and self.evaluation.history[-1].round > self.rounds:
            raise ValueError(
                f"evaluation.history reaches round {self.evaluation.history[-1].round}, rounds = {self.rounds}"
            )
        return self
