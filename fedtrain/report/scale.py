"""A scale for an epsilon: what published guides say of values, and which values deployments have, each with its source.

Only what could be looked up is here. Epsilons of other units, neighbouring relations and deltas are no measure of one
another, so that each line says what its own protects.
"""

from dataclasses import dataclass

from fedtrain.report.numbers import exact, upper
from fedtrain.report.privacy import Privacy
from fedtrain.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published epsilon.

    Attributes:
        place: its place on the scale: the largest value.
        epsilon: the value or the range, as published.
        what: whose it is, or what is said of it.
        protects: unit, and delta where it is published.
        source: which of the sources has it, from 1.
    """

    place: float
    epsilon: str
    what: str
    protects: str
    source: int


SOURCES = (
    (
        'Google Research, "Advances in private training for production on-device language models", 21 February 2024, '
        "research.google/blog"
    ),
    'D. Desfontaines, "A list of real-world uses of differential privacy", desfontain.es/blog',
)
"""Who published the values, where and when. A row names its source by its place here, from 1."""

REFERENCES = (
    Reference(
        place=1.0,
        epsilon="1",
        what="a model's guarantee is considered strong, where delta is small",
        protects="whatever the guarantee protects",
        source=1,
    ),
    Reference(
        place=2.0,
        epsilon="2",
        what="Apple: which types of health data are used",
        protects="one user on one day; noise on the user's own device",
        source=2,
    ),
    Reference(
        place=4.0,
        epsilon="4",
        what="Apple: popular emoji",
        protects="one user on one day; noise on the user's own device",
        source=2,
    ),
    Reference(
        place=10.0,
        epsilon="10",
        what="a model's guarantee is considered reasonable, where delta is small",
        protects="whatever the guarantee protects",
        source=1,
    ),
    Reference(
        place=13.69,
        epsilon="0.994 to 13.69",
        what="Google: language models of a keyboard, trained on its users' phones",
        protects="one user with all their data, delta 10⁻¹⁰",
        source=1,
    ),
    Reference(
        place=16.0,
        epsilon="16",
        what="Apple: new words that many users type",
        protects="one user on one day; noise on the user's own device",
        source=2,
    ),
)
"""The published values, the smallest first."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The published values with the epsilon of a report among them.

    Attributes:
        table: the rows, the smallest epsilon first.
        here: which row is the report's own.
    """

    table: Table
    here: int


def scale(privacy: Privacy) -> Scale | None:
    """Return the published values with a report's epsilon in its place; ``None`` without one."""
    if privacy.epsilon is None or privacy.delta is None:
        return None
    epsilon = privacy.epsilon
    here = sum(reference.place < epsilon for reference in REFERENCES)
    rows = [(one.epsilon, one.what, one.protects, str(one.source)) for one in REFERENCES]
    whose = "this report" if privacy.noise != "seeded" else "this report, a simulation: protects nobody"
    own = (upper(epsilon), whose, f"one {privacy.unit}, delta {exact(privacy.delta)}", "")
    rows.insert(here, own)
    note = "Sources: " + "; ".join(f"{number}: {source}" for number, source in enumerate(SOURCES, start=1)) + "."
    headings = ("epsilon", "what", "what is protected", "source")
    return Scale(table=Table(headings=headings, rows=rows, note=note), here=here)
