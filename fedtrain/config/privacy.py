"""The sections of an experiment that protect the records: privacy, sealed messages and secure aggregation.

The names that ``privacy.mode`` may have, in experiments, reports, records and site files, are here too. A mechanism of
another mode declares its own when it is registered (`fedtrain.privacy.mechanisms.register`).
"""

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from fedtrain.config.sections import Count, Fraction, Positive, Section

MODES = ["none", "record", "client"]


UNKNOWN_MODE: Final = "mode"
"""The type of the error for a mode that no mechanism has."""


def declare(mode: str) -> None:
    """Let ``privacy.mode`` have another name."""
    if mode not in MODES:
        MODES.append(mode)


def _known(mode: str) -> str:
    if mode not in MODES:
        *others, last = (repr(name) for name in MODES)
        raise PydanticCustomError(
            UNKNOWN_MODE,
            "No mechanism of the mode {mode} is registered here; allowed are {expected}",
            {"mode": repr(mode), "expected": f"{', '.join(others)} or {last}"},
        )
    return mode


Mode = Annotated[str, AfterValidator(_known), WithJsonSchema({"enum": MODES, "type": "string"})]
"""The name of a mode, known at the time when it is read."""


Trust = Literal["local", "distributed", "central"]
"""Who adds the noise: each client all of it, each client a share, or the server."""


class Privacy(Section):
    """The privacy guarantee and its parameters: see docs/explanation/privacy.md."""

    mode: Mode = Field("none", description="what is protected: none; each record; each client with all its records")
    trust: Trust | None = Field(
        None,
        description="who adds the noise: local: each client all that protects it alone; distributed: each client a "
        "share, and the server gets sums; central: the server; default: local for records, central for clients",
    )
    colluders: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="distributed: members of a cohort that may collude with the server; no default, since every claim "
        "rests on it",
    )
    epsilon: Positive = Field(8.0, description="the budget of each client over the whole run")
    delta: Fraction = Field(1e-5, description="the delta of the budget, below 1 / records of a client, or 1 / clients")
    clip_norm: Positive = Field(
        1.0, description="bound on the L2 norm of each record's gradient, or of each client's update"
    )
    sampling_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="record: probability with which a record enters a batch"
    )
    noise_multiplier: Positive | None = Field(
        None, description="standard deviation of the noise over clip_norm; default: the least that keeps the budget"
    )
    max_participations: Count | None = Field(
        None,
        description="most rounds a client trains in; default: all rounds; a value above federation.rounds leaves room "
        "for repeated rounds, which secure noise charges again",
    )
    cohorts: Literal["poisson", "capped"] = Field(
        "poisson",
        description="client: poisson draws each client with probability cohort / clients and keeps cohorts secret; "
        "capped draws cohorts of fixed size, without amplification by sampling",
    )
    mechanism: Literal["gaussian", "banded"] = Field(
        "gaussian",
        description="client, capped: gaussian draws the noise of each round anew; banded takes a part of it back in "
        "later rounds, for less noise in the model at the same epsilon",
    )
    separation: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="banded: rounds from one participation of a client to its next, at least; the cohorts of so many "
        "rounds are of different clients",
    )
    adaptive_clipping: bool = Field(False, description="client: let clip_norm follow a quantile of the updates' norms")
    clipping_quantile: Fraction = Field(0.5, description="adaptive clipping: the fraction of updates not clipped")
    clipping_rate: Positive = Field(0.2, description="adaptive clipping: learning rate of the logarithm of clip_norm")
    clipping_noise: Positive | None = Field(
        None, description="adaptive clipping: standard deviation of the noise on the count; default: cohort / 20"
    )
    noise: Literal["seeded", "secure"] = Field(
        "seeded", description="seeded: repeatable, for simulation only; secure: from the operating system's generator"
    )
    tuning: str = Field("not declared", description="earlier runs on the same records, in words; printed in the report")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mechanism == "gaussian":
            if self.separation is not None:
                raise ValueError(
                    f'separation = {self.separation} is for mechanism = "banded", and it is "gaussian"; leave it out'
                )
            return self
        if self.mode != "client" or self.cohorts != "capped":
            raise ValueError(
                f'mechanism = "banded" is for mode = "client" with cohorts = "capped", and they are "{self.mode}" and '
                f'"{self.cohorts}"'
            )
        if self.distributed:
            raise ValueError(
                'mechanism = "banded" is for noise that the server adds, and trust = "distributed" shares it among the '
                "clients"
            )
        if self.separation is None:
            raise ValueError(
                'mechanism = "banded" needs separation: the rounds from one participation of a client to its next, at '
                "least; the largest possible one is federation.clients / federation.cohort, rounded down"
            )
        if self.adaptive_clipping:
            raise ValueError(
                'adaptive_clipping = true is not for mechanism = "banded": noise of earlier rounds is taken back in '
                "later ones, at one clipping norm"
            )
        return self

    @property
    def distributed(self) -> bool:
        """Whether each client adds a share of the noise."""
        return self.trust == "distributed"

    @property
    def secret_cohorts(self) -> bool:
        """Whether nobody is to learn who takes part in which round: the accounting relies on that."""
        return self.mode == "client" and self.cohorts == "poisson"


class SecureAggregation(Section):
    """The server learns the sum of the updates, and no single one: see docs/explanation/transport.md."""

    enabled: bool | None = Field(None, description="mask updates; default: on in a deployment, off in a simulation")
    threshold: Annotated[int, Field(ge=2)] | None = Field(
        None, description="clients of a cohort that must answer; default: two thirds, the least allowed"
    )
    neighbours: Annotated[int, Field(ge=1)] | None = Field(
        None, description="clients each client shares masks with; default: all others, up to a cohort of 200"
    )
    bits: Annotated[int, Field(ge=2, le=30)] | None = Field(
        None,
        description="bits of a quantized parameter; more bits cost more bytes; default: 16; with distributed noise 22 "
        "for records, and 20 for clients",
    )
    bound: Annotated[float, Field(ge=1e-9, le=1e9)] | None = Field(
        None, description="largest change of a parameter in an update; default: 1, in client privacy the clipping norm"
    )
    max_weight: Count | None = Field(
        None, description="mode none: weigh clients by their records, up to this number; default: equal weights"
    )

    @property
    def bits_of_change(self) -> int:
        """The bits of a change of a parameter that is summed without noise in it."""
        return 16 if self.bits is None else self.bits

    @property
    def largest_change(self) -> float:
        """The bound on the change of a parameter where no clipping norm is the bound."""
        return 1.0 if self.bound is None else self.bound


class Transport(Section):
    """Sealed messages and secure aggregation: see docs/explanation/transport.md."""

    sealed: bool | None = Field(
        None,
        description="encrypt models and updates end to end between server and client; default: on in a deployment, off "
        "in a simulation",
    )
    secagg: SecureAggregation = Field(default_factory=SecureAggregation)
