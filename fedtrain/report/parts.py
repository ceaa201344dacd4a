"""The parts of a report that say what was trained, round by round, and what proves it; and what all parts share.

How good the model is and what is guaranteed are in `fedtrain.report.evaluation` and `fedtrain.report.privacy`.
"""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Scalar = bool | int | float | str
Count = Annotated[int, Field(ge=0)]
Round = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """A part of the report: immutable, strictly typed, finite numbers, no unknown keys.

    Sequences are tuples; JSON arrays are read as tuples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, serialize_by_alias=True)


def ascending(rounds: tuple[int, ...]) -> bool:
    """Say whether round numbers are in order, each at most once."""
    return all(before < after for before, after in pairwise(rounds))


class SiteName(Part):
    """What a site allows to be called by, in its own words: its site file decides, and nobody verifies it."""

    client: Count = Field(description="the client")
    name: Annotated[str, Field(min_length=1, max_length=100)] = Field(description="its name")


class DataSummary(Part):
    """The records. In a deployment the server does not know what only the clients know: that is null."""

    kind: str = Field(description="image, table, audio, text or tokens")
    shape: tuple[Round, ...] = Field(description="shape of one record")
    target: Literal["class", "number", "labels", "text"] = Field(
        "class",
        description="what is predicted of a record; left out where it is a class",
        exclude_if=lambda target: target == "class",
    )
    classes: tuple[str, ...] = Field(description="names of the classes, or of the labels; none for a number or a text")
    train_records: Count | None = Field(description="training records of all clients; null in a deployment")
    test_records: Count = Field(description="test records, which no client sees")
    clients: Count = Field(description="clients in the federation")
    histogram: tuple[tuple[Count, ...], ...] | None = Field(
        description="training records, a row for each client and a column for each class; simulation only, read "
        "directly from the data and so not covered by epsilon; null in a deployment, and where the target is no class"
    )
    owners: tuple[str, ...] | None = Field(
        None,
        description="name of each client, as the column of owners has it; simulation only, left out if there is none",
        exclude_if=lambda owners: owners is None,
    )
    features: tuple[str, ...] = Field(
        (),
        description="columns that the features are made of, in their order: one of categories is several features; "
        "left out where the source has no columns",
        exclude_if=lambda features: not features,
    )
    schema_digest: Sha256 | None = Field(
        None,
        description="digest of the schema file by which features and targets were decoded: of the meaning of the "
        "columns, and not of how files are written; left out where there is none",
        exclude_if=lambda digest: digest is None,
    )
    vocabulary: Count | None = Field(
        None,
        description="of tokens: one more than the largest number of a token; left out for anything else",
        exclude_if=lambda vocabulary: vocabulary is None,
    )
    rate: Count | None = Field(
        None,
        description="of sounds: samples a second; left out for anything else",
        exclude_if=lambda rate: rate is None,
    )
    sites: tuple[SiteName, ...] = Field(
        (),
        description="sites that allow a name; a site that allows none is known by its number alone. Left out where "
        "none does",
        exclude_if=lambda sites: not sites,
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not ascending(tuple(site.client for site in self.sites)):
            raise ValueError("sites is not in the order of the clients, each once")
        if self.sites and self.sites[-1].client >= self.clients:
            raise ValueError(f"sites names client {self.sites[-1].client}, and there are {self.clients} clients")
        if self.owners is not None and len(self.owners) != self.clients:
            raise ValueError(f"owners has {len(self.owners)} names for {self.clients} clients")
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
    seconds: NotNegative = Field(description="duration of the round; 0 if cohorts are secret")

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
    """A safetensors file in the run folder."""

    file: str = Field(description="its name, relative to the run folder")
    sha256: Sha256 = Field(description="SHA-256 of its bytes, in hexadecimal")


Way = Literal["book-keeping", "hooks", "vmap", "loop"]


class EncoderSummary(Part):
    """The frozen module that computed what the model was trained on."""

    name: str = Field(description="as the configuration names it")
    origin: str = Field(description="what it was fitted on, as declared")
    digest: Sha256 = Field(description="SHA-256 of its source and state, in hexadecimal")
    shape: tuple[Round, ...] = Field(description="shape of the features of one record")
    vocabulary: Count | None = Field(
        None,
        description="of tokens: one more than the largest number of a token; left out for anything else",
        exclude_if=lambda vocabulary: vocabulary is None,
    )


class PublicSummary(Part):
    """Frozen weights of the model that every machine has from a public source, and that never travel."""

    origin: str = Field(description="where they come from and what they were fitted on, as declared")
    digest: Sha256 = Field(description="SHA-256 of their names, types, shapes and values, in hexadecimal")
    parameters: Count = Field(description="how many numbers they are")
    sent_bytes: Count = Field(
        description="bytes of the model that a client is sent in a round, and of its update as long as that is not "
        "masked: a masked number has transport.secagg.bits"
    )
    whole_bytes: Count = Field(description="what these bytes would be if the whole model were trained and sent")


class ModelSummary(Part):
    """The trained model."""

    parameters: Count = Field(
        description="parameters that are sent in a round: those of the model, frozen ones too if they are sent; with "
        'training.solver = "least-squares" the sums that the model is fitted from'
    )
    final: ModelFile | None = Field(description="weights after the last round; null if none were saved")
    best: ModelFile | None = Field(description="weights of evaluation.best; null if none were saved")
    gradients: Way | None = Field(
        None,
        description="how clients compute the gradients of single records: all ways give the same, and book-keeping is "
        "the fastest; left out where they compute none",
        exclude_if=lambda gradients: gradients is None,
    )
    encoder: EncoderSummary | None = Field(
        None,
        description="what computed the features that the model takes; left out where it takes the records themselves",
        exclude_if=lambda encoder: encoder is None,
    )
    public: PublicSummary | None = Field(
        None,
        description="frozen weights that never travel; left out where there are none",
        exclude_if=lambda public: public is None,
    )


class TextSample(Part):
    """What the final model writes, where it predicts the tokens of texts.

    It is drawn with the seed of the run from the released model alone, and so costs no privacy. Without privacy it may
    repeat what was trained on.
    """

    texts: tuple[str, ...] = Field(description="texts that begin with nothing, each up to its end or to so many tokens")
    tokens: Round = Field(description="the most tokens of a text")
    temperature: Positive = Field(description="what logits were divided by; 1 draws as the model says")


# Envelopes are kept as they were signed, so that an audit can verify their bytes.
EnvelopeJson = dict[str, JsonValue]


class LedgerTrail(Part):
    """The ledger of one client's data set, all runs on it included."""

    client: Count = Field(description="the client")
    entries: tuple[EnvelopeJson, ...] = Field(
        description="its entries, each a DSSE envelope signed by the client, in the order of its hash chain"
    )
    statement: EnvelopeJson | None = Field(
        description="its signed statement that this is all there is; null if it gave none"
    )


class SignedTrail(Part):
    """Signed records of what was asked, done and charged."""

    roster: dict[str, JsonValue] = Field(description="public keys of the server and of each client")
    record: tuple[EnvelopeJson, ...] = Field(
        description="the server's record of the run, each a DSSE envelope, in the order of its hash chain"
    )
    ledgers: tuple[LedgerTrail, ...] = Field(description="the ledger of each client of the roster")
