"""The report of a run, as written to ``report.json`` and read back.

``report.model_dump_json()`` writes it, ``Report.model_validate_json(text)`` reads and checks it, and
``Report.model_json_schema()`` describes it to other programs. docs/reference/report.md lists every field.
"""

from collections import defaultdict
from datetime import timedelta
from hashlib import sha256
from typing import Final, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from fedtrain.crypto import canonical
from fedtrain.privacy.mechanisms import private
from fedtrain.report.evaluation import Evaluations
from fedtrain.report.parts import (
    Count,
    DataSummary,
    ModelFile,
    ModelSummary,
    NotNegative,
    Part,
    RoundEntry,
    Scalar,
    Sha256,
    SignedTrail,
    TextSample,
    ascending,
)
from fedtrain.report.privacy import Privacy

SCHEMA: Final = "fedtrain.report/3"


class Report(Part):
    """What a run did, what it reached, and what it guarantees."""

    schema_: Literal["fedtrain.report/3"] = Field(alias="schema", description="the version of this format")
    fedtrain: str = Field(description="version of fedtrain that wrote it")
    name: str = Field(description="the experiment's name")
    run: str = Field(description="identifies the run in ledgers and in the server's record")
    created: AwareDatetime = Field(
        description="when it was written: ISO 8601, UTC; the day alone if cohorts are secret"
    )
    status: Literal["completed", "interrupted", "failed"] = Field(description="how the run ended")
    reason: str | None = Field(description="why it did not complete; null if it did")
    warnings: tuple[str, ...] = Field(
        (),
        description="what a person should know of this run; left out where there is nothing",
        exclude_if=lambda warnings: not warnings,
    )
    rounds: Count = Field(description="rounds completed")
    planned_rounds: Count = Field(description="rounds configured")
    seconds: NotNegative = Field(description="duration of the run; 0 if cohorts are secret")
    config: dict[str, Scalar] = Field(description="every configuration field by its dotted key; empty if unset")
    evaluation: Evaluations = Field(description="how good the model is")
    privacy: Privacy = Field(description="the privacy guarantee to the owners of the records")
    data: DataSummary = Field(description="the records")
    round_log: tuple[RoundEntry, ...] = Field(description="every round")
    model: ModelSummary = Field(description="the trained model")
    sample: TextSample | None = Field(
        None,
        description="what the final model writes, where it predicts the tokens of texts; left out of a run that did "
        "not complete, and of any other model",
        exclude_if=lambda sample: sample is None,
    )
    matrices: ModelFile | None = Field(
        None,
        description="file of confusion matrices and of the histogram, where they are too large for a report; left out "
        "where they are not",
        exclude_if=lambda matrices: matrices is None,
    )
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
            raise ValueError("proof is to be set exactly where privacy.mode guarantees something")
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


def body_digest(report: Report) -> str:
    """Return the SHA-256 of the canonical JSON (RFC 8785) of a report without its proof, in hexadecimal.

    The proof is left out because it holds the record that signs this digest.

    Raises:
        ValueError: a whole number beyond 2**53 - 1, which JSON does not hold exactly.
    """
    return sha256(canonical(report.model_dump(mode="json", exclude={"proof"}))).hexdigest()
