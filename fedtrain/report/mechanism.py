"""The parts of the report that say what was done to protect, and how it was accounted.

Together with `fedtrain.report.privacy` they answer what NIST SP 800-226 and the checklist of "How to DP-fy ML"
(Ponomareva et al. 2023, section 5.3) ask of a claim of differential privacy.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from fedtrain.report.base import Count, NotNegative, Part, Positive, Round, Sha256

SamplingRate = Annotated[float, Field(gt=0, le=1)]


class Adversary(Part):
    """Someone who may want to learn about what is protected, and what stops them."""

    who: str = Field(description="who they are")
    sees: str = Field(description="what they see of the run")
    bounded: bool = Field(description="whether epsilon bounds what they can learn")
    by: str = Field(description="what bounds it, or why nothing does")


class AdaptiveClipping(Part):
    """A clip norm that follows a quantile of the norms (Andrew et al. 2021)."""

    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(description="fraction of the updates not to be clipped")
    learning_rate: Positive = Field(description="learning rate of the logarithm of the clip norm")
    count_noise: Positive = Field(
        description="standard deviation of the noise on the centred count of updates not clipped"
    )
    value_noise_multiplier: Positive = Field(
        description="noise multiplier left for the values, so that both releases together have noise_multiplier"
    )


class Mechanism(Part):
    """The mechanism, with every parameter that determines epsilon."""

    name: Literal["Poisson-sampled Gaussian", "Gaussian"] = Field(description="the kind of mechanism")
    sampling_rate: SamplingRate = Field(description="probability with which a unit takes part in a step")
    noise_multiplier: Positive = Field(description="standard deviation of the noise over clip_norm")
    clip_norm: Positive = Field(
        description="bound on the L2 norm of what one unit adds to a step; the first one, if clipping is adaptive"
    )
    divisor: Positive = Field(description="public divisor of the noisy sum: expected units in a step")
    population: Positive = Field(description="public number of protected units; delta is below 1 / population")
    steps_per_round: Round = Field(description="noisy steps in a round")
    rounds: Round = Field(description="rounds that the noise was calibrated for, for each client")
    adaptive_clipping: AdaptiveClipping | None = Field(description="how clip_norm changes; null if it is fixed")
    plan_digest: Sha256 = Field(description="SHA-256 of the canonical JSON of plan; every ledger entry names it")
    plan: dict[str, JsonValue] = Field(description="the calibrated plan as data, as the clients received it")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.name == "Gaussian") != (self.sampling_rate == 1):
            raise ValueError(
                f'name = "{self.name}" does not go with sampling_rate = {self.sampling_rate}: a rate of 1 is "Gaussian"'
            )
        return self


class Sampling(Part):
    """How the units of a step are chosen, and whether the accounting makes use of it."""

    scheme: Literal["Poisson, records", "Poisson, clients", "none"] = Field(
        description="each record, or each client, is drawn by itself with the same probability; or no draw is relied on"
    )
    rate: SamplingRate = Field(description="that probability; 1 if no draw is relied on")
    amplification: bool = Field(description="whether epsilon is smaller because the draw is secret")
    reason: str = Field(description="why amplification may be used, or why it is not")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scheme == "none" and (self.amplification or self.rate != 1):
            raise ValueError('scheme = "none" has rate 1 and no amplification')
        return self


class Accountant(Part):
    """One computation of the largest epsilon."""

    name: str = Field(description="the accountant")
    version: str = Field(description="version of the package that it comes from")
    role: Literal["claim", "second opinion", "ceiling"] = Field(
        description="claim: the epsilons of this report; second opinion: independent of it; ceiling: a looser bound"
    )
    epsilon: NotNegative = Field(description="its epsilon for the client that spent most")
    note: str | None = Field(description="why it is not the usual accountant for this role; null if it is")


class PrivacyEvent(Part):
    """One charge to one client: so many steps of the mechanism.

    Every reservation of the client's ledger is one, whatever run made it, and every round that it was asked in and left
    unanswered. A round that was repeated has two events, and a client that was dropped keeps its event: what may have
    been sent counts.
    """

    client: Count = Field(description="the client")
    run: str = Field(description="the run, this one or an earlier one on the same records")
    round: Count = Field(description="the round; 0 is a charge for the whole run, made when the client joined")
    sampling_rate: SamplingRate = Field(description="sampling rate of these steps")
    noise_multiplier: Positive = Field(description="noise multiplier of these steps")
    steps: Round = Field(description="how many steps")
