"""The report of a run, as written to ``report.json`` and read back.

``report.model_dump_json()`` writes it, ``Report.model_validate_json(text)`` reads and checks it, and
``Report.model_json_schema()`` describes it to other programs. docs/reference/report.md lists every field.
"""

from collections import defaultdict
from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from fedtrain.privacy.mechanisms import private
from fedtrain.report.base import Count, NotNegative, Part, Positive, Round, Scalar, Sha256, ascending
from fedtrain.report.evaluation import Evaluations
from fedtrain.report.privacy import Privacy
from fedtrain.report.trail import SignedTrail

SCHEMA: Final = "fedtrain.report/3"


class DataSummary(Part):
    """The records. In a deployment the server does not know what only the clients know: that is null."""

    kind: str = Field(description="image or table")
    shape: tuple[Round, ...] = Field(description="shape of one record")
    target: Literal["class", "number", "labels"] = Field(
        "class",
        description="what is predicted of a record; left out where it is a class",
        exclude_if=lambda target: target == "class",
    )
    classes: tuple[str, ...] = Field(description="names of the classes, or of the labels; none for a number")
    train_records: Count | None = Field(description="training records of all clients; null in a deployment")
    test_records: Count = Field(description="test records, which no client sees")
    clients: Count = Field(description="clients in the federation")
    histogram: tuple[tuple[Count, ...], ...] | None = Field(
        description="training records, a row for each client and a column for each class; simulation only, read "
        "directly from the data and so not covered by epsilon; null in a deployment, and where the target is no class"
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


class SecureAggregation(Part):
    """How the updates of a round were summed so that the server saw no single one, and who was lost on the way."""

    threshold: Annotated[int, Field(ge=2)] = Field(description="shares that were needed to recover a mask")
    neighbours: Annotated[int, Field(ge=1)] = Field(description="clients that each client shared masks with")
    bits: Annotated[int, Field(ge=2)] = Field(description="bits of a quantized parameter")
    lost_masking: Count = Field(
        description="clients of the cohort that delivered no masked update: dropped, and not in the sum"
    )
    lost_unmasking: Count = Field(
        description="clients that delivered one and did not answer the unmasking: completed, and in the sum"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.threshold > self.neighbours + 1:
            raise ValueError(f"threshold = {self.threshold} is more than a client and its {self.neighbours} neighbours")
        return self


class RoundEntry(Part):
    """One round. Who took part is null where cohorts are secret: the accounting relies on that."""

    round: Round = Field(description="the round, from 1")
    cohort: tuple[Count, ...] | None = Field(description="clients that were asked; null if cohorts are secret")
    completed: tuple[Count, ...] | None = Field(
        description="clients whose results were used; null if cohorts are secret"
    )
    dropped: tuple[Dropped, ...] | None = Field(
        description="clients whose results were not used; null if cohorts are secret"
    )
    sealed: bool = Field(description="models and updates were encrypted end to end between server and clients")
    secagg: SecureAggregation | None = Field(
        description="the server saw the sum of the updates alone; null: it saw single updates"
    )
    clip_norm: Positive | None = Field(description="clip norm in this round; null in mode none")
    learning_rate: NotNegative = Field(description="learning rate of the clients in this round")
    seconds: NotNegative = Field(description="duration of the round")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cohort is None or self.completed is None or self.dropped is None:
            if (self.cohort, self.completed, self.dropped) != (None, None, None):
                raise ValueError(f"round {self.round}: cohort, completed and dropped are to be secret together")
            if self.secagg is not None:
                raise ValueError(f"round {self.round}: with secagg clients know the cohort, and it cannot be secret")
            return self
        answered = [*self.completed, *(entry.client for entry in self.dropped)]
        if len(set(answered)) != len(answered) or not set(answered) <= set(self.cohort):
            raise ValueError(f"round {self.round}: completed and dropped are to name clients of the cohort, each once")
        if self.secagg is not None:
            self._check_sum(self.secagg, len(self.cohort), len(self.completed), len(self.dropped))
        return self

    def _check_sum(self, secagg: SecureAggregation, cohort: int, completed: int, dropped: int) -> None:
        if not secagg.lost_masking == dropped == cohort - completed:
            raise ValueError(
                f"round {self.round}: secagg.lost_masking = {secagg.lost_masking}, and of {cohort} clients "
                f"{completed} are in completed and {dropped} in dropped"
            )
        if secagg.neighbours >= cohort:
            raise ValueError(f"round {self.round}: secagg.neighbours = {secagg.neighbours} in a cohort of {cohort}")
        if completed - secagg.lost_unmasking < secagg.threshold:
            raise ValueError(
                f"round {self.round}: secagg.lost_unmasking = {secagg.lost_unmasking} of {completed} clients leaves "
                f"fewer than secagg.threshold = {secagg.threshold}, and without so many there is no sum"
            )


class ModelFile(Part):
    """A file of weights in the run folder."""

    file: str = Field(description="its name, relative to the run folder")
    sha256: Sha256 = Field(description="SHA-256 of its bytes, in hexadecimal")


class ModelSummary(Part):
    """The trained model."""

    parameters: Count = Field(description="trained numbers in the model")
    final: ModelFile | None = Field(description="weights after the last round; null if none were saved")
    best: ModelFile | None = Field(description="weights of evaluation.best; null if none were saved")


class Report(Part):
    """What a run did, what it reached, and what it promises."""

    schema_: Literal["fedtrain.report/3"] = Field(alias="schema", description="the version of this format")
    fedtrain: str = Field(description="version of fedtrain that wrote it")
    name: str = Field(description="the experiment's name")
    run: str = Field(description="identifies the run in ledgers and in the server's record")
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
    software_digests: dict[str, Sha256] = Field(description="SHA-256 of the code that ran, by name")
    proof: SignedTrail | None = Field(description="what an audit checks all this against; null in mode none")

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
        if (self.proof is None) != (not private(self.privacy.mode)):
            raise ValueError("proof is to be set exactly where privacy.mode promises something")
        self._check_rounds_of_run()
        return self

    def _check_rounds_of_run(self) -> None:
        rounds: dict[int, set[int]] = defaultdict(set)
        for event in self.privacy.events:
            if event.run == self.run:
                rounds[event.client].add(event.round)
        for client in self.privacy.clients:
            if set(client.rounds) != rounds[client.client]:
                raise ValueError(f"client {client.client}: rounds are not those of its events of this run")
