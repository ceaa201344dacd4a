"""Mechanisms as data: what was done to the records, in a form that anyone can account for again."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from fedtrain.errors import PrivacySpecError

KIND = "poisson-sampled-gaussian"


@dataclass(frozen=True, kw_only=True)
class SampledGaussian:
    """Steps of the Poisson-sampled Gaussian mechanism (Abadi et al. 2016; Mironov et al. 2019).

    In each step every record enters independently with ``sampling_rate``; the sum of their contributions, each of L2
    norm at most C, is released with Gaussian noise of standard deviation ``noise_multiplier * C``. With a rate of 1 it
    is the Gaussian mechanism. In client privacy "record" reads "client".
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def as_data(self) -> dict[str, JsonValue]:
        """Return the event as a JSON object that names its kind."""
        return {
            "kind": KIND,
            "sampling_rate": self.sampling_rate,
            "noise_multiplier": self.noise_multiplier,
            "steps": self.steps,
        }

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Return the event of a JSON object as ``as_data`` makes it.

        Raises:
            PrivacySpecError: another kind of event, or other fields or types than those of this kind.
        """
        try:
            event = _EventData.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "event"
            raise PrivacySpecError(f"not an event of kind {KIND}: {where}: {first['msg']}") from error
        return cls(sampling_rate=event.sampling_rate, noise_multiplier=event.noise_multiplier, steps=event.steps)


class _EventData(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: Literal["poisson-sampled-gaussian"]
    sampling_rate: float
    noise_multiplier: float
    steps: int


def merge(events: Iterable[SampledGaussian]) -> tuple[SampledGaussian, ...]:
    """Join events of the same mechanism into one. Order does not matter to their composition."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        key = (event.sampling_rate, event.noise_multiplier)
        steps[key] = steps.get(key, 0) + event.steps
    return tuple(
        SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=count)
        for (rate, noise), count in sorted(steps.items())
    )
