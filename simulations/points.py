"""The points of the frontier: which workload is trained with which trust, at which epsilon, and how.

A workload is a configuration of this folder that shares the noise. A series changes some of its settings, and gives
them for each epsilon where they are not the same for all. How settings were chosen is in docs/explanation/frontier.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).resolve().parent

Settings = Mapping[str, Any]
Trust = Literal["none", "local", "distributed", "central"]

NO_PRIVACY: Settings = {
    "privacy.mode": "none",
    "privacy.trust": None,
    "privacy.colluders": None,
    "privacy.sampling_rate": None,
    "transport.secagg.threshold": None,
    "transport.secagg.bits": None,
}
LOCAL: Settings = {
    "privacy.trust": "local",
    "privacy.colluders": None,
    "transport.secagg.threshold": None,
    "transport.secagg.bits": None,
}


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of the plot: one way to train a workload, over epsilon.

    Attributes:
        trust: who adds the noise; "none" for training without privacy, which is one point for each seed.
        what: the way, in a few words; what is trained of what.
        main: whether it is the way of its trust that is compared with others; another is drawn broken.
        settings: over those of the workload's configuration.
        at: settings for each epsilon, over all others; its keys are the epsilons.
    """

    trust: Trust
    what: str
    main: bool = True
    settings: Settings = field(default_factory=dict)
    at: Mapping[float, Settings] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A data set, and the ways to train on it.

    Attributes:
        name: in names of files.
        title: for a person.
        config: the configuration's name, without its ending.
        seeds: each gives other noise, another split over clients, and for digits other test records.
        series: the ways.
    """

    name: str
    title: str
    config: str
    seeds: tuple[int, ...]
    series: Mapping[str, Series]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run.

    Attributes:
        workload: what is trained.
        series: the name of the way.
        epsilon: the budget; ``None`` without privacy.
        seed: the seed of the run.
    """

    workload: Workload
    series: str
    epsilon: float | None
    seed: int

    @property
    def way(self) -> Series:
        """The way."""
        return self.workload.series[self.series]

    @property
    def name(self) -> str:
        """What its files are called."""
        at = "" if self.epsilon is None else f"-{self.epsilon:g}"
        return f"{self.workload.name}-{self.series}{at}-seed{self.seed}"

    @property
    def file(self) -> str:
        """The name of the file that its report is kept in."""
        return f"{self.name}.json.xz"

    @property
    def config(self) -> Path:
        """The configuration that the settings change."""
        return FOLDER / f"{self.workload.config}.toml"

    def settings(self) -> dict[str, Any]:
        """Return all that the configuration does not have; ``None`` unsets a field."""
        found: dict[str, Any] = {"seed": self.seed, "name": f"{self.workload.name}-{self.series}", **self.way.settings}
        if self.epsilon is not None:
            found |= {"privacy.epsilon": self.epsilon, **self.way.at[self.epsilon]}
        return found


def points(workload: Workload) -> tuple[Point, ...]:
    """Return the points of a workload, those of a series together."""
    return tuple(
        Point(workload=workload, series=name, epsilon=epsilon, seed=seed)
        for name, series in workload.series.items()
        for epsilon in ([None] if series.trust == "none" else sorted(series.at))
        for seed in workload.seeds
    )


_DIGITS = Workload(
    name="digits",
    title="Handwritten digits",
    config="digits_frontier",
    seeds=(1, 2, 3, 4, 5),
    series={
        "distributed": Series(
            trust="distributed",
            what="linear, random features",
            at={
                1: {},
                2: {"federation.rounds": 12, "training.learning_rate": 128.0},
                4: {"federation.rounds": 15, "training.learning_rate": 192.0},
                8: {"federation.rounds": 20, "training.learning_rate": 256.0},
            },
        ),
        "local": Series(
            trust="local",
            what="linear, random features",
            settings={**LOCAL, "federation.rounds": 3, "training.local_steps": 2},
            at={
                1: {"training.learning_rate": 32.0},
                2: {"training.learning_rate": 48.0},
                4: {"training.learning_rate": 96.0},
                8: {"federation.rounds": 6, "training.learning_rate": 128.0},
            },
        ),
        "none": Series(
            trust="none",
            what="linear, random features",
            settings={
                **NO_PRIVACY,
                "federation.rounds": 20,
                "training.local_steps": None,
                "training.local_epochs": 2.0,
                "training.batch_size": 36,
                "training.learning_rate": 24.0,
            },
        ),
        "products": Series(
            trust="distributed",
            what="linear, products of pixels",
            main=False,
            settings={
                "task.encoder": "simulations.pixel_products:build",
                "task.encoder_origin": "a formula",
                "training.learning_rate": 128.0,
            },
            at={1: {}, 2: {"federation.rounds": 12, "training.learning_rate": 192.0}},
        ),
        "pixels": Series(
            trust="distributed",
            what="least squares, pixels",
            main=False,
            settings={
                "task.encoder": None,
                "task.encoder_origin": None,
                "task.model": None,
                "federation.rounds": 1,
                "training.solver": "least-squares",
                "training.schedule": "constant",
                "privacy.clip_norm": 1.0,
                "transport.secagg.bits": 28,
            },
            at={1: {}, 8: {}},
        ),
    },
)

_PATCHES: Settings = {
    "task.encoder": "simulations.photograph_patches:build",
    "task.encoder_origin": "the two photographs that come with scikit-learn",
}

_CIFAR10 = Workload(
    name="cifar10",
    title="CIFAR-10",
    config="cifar10_scattering",
    seeds=(1,),
    series={
        "distributed": Series(
            trust="distributed",
            what="linear, patches",
            settings=_PATCHES,
            at={
                1: {"federation.rounds": 12, "training.learning_rate": 1536.0},
                2: {"federation.rounds": 20, "training.learning_rate": 2048.0},
                3: {"federation.rounds": 30, "training.learning_rate": 2048.0},
                4: {"federation.rounds": 30, "training.learning_rate": 2048.0},
                8: {"federation.rounds": 30, "training.learning_rate": 3072.0},
            },
        ),
        "scattering": Series(
            trust="distributed",
            what="linear, scattering",
            main=False,
            settings={"name": "cifar10-distributed"},  # as the series was called when it was run
            at={
                1: {"federation.rounds": 30},
                3: {},
                8: {"training.learning_rate": 2048.0},
            },
        ),
        "cnn": Series(
            trust="distributed",
            what="CNN from random weights",
            main=False,
            settings={
                "task.encoder": None,
                "task.model": "cnn-cifar",
                "federation.rounds": 200,
                "training.learning_rate": 1.0,
                "training.batch_size": 50,
                "training.warmup_rounds": 10,
                "privacy.sampling_rate": 0.1,
                "privacy.clip_norm": 3.0,
                "server.strategy": "FedAvgM",
                "server.parameters.server_momentum": 0.6,
                "server.evaluate_every": 20,
                "transport.secagg.bits": None,
            },
            at={8: {}},
        ),
        "local": Series(
            trust="local",
            what="linear, patches",
            settings={**LOCAL, **_PATCHES, "federation.rounds": 8},
            at={
                1: {"training.learning_rate": 256.0},
                2: {"training.learning_rate": 512.0},
                4: {"training.learning_rate": 1024.0},
                8: {"training.learning_rate": 1536.0},
            },
        ),
        "none": Series(
            trust="none",
            what="linear, patches",
            settings={
                **NO_PRIVACY,
                **_PATCHES,
                "federation.rounds": 10,
                "training.local_steps": None,
                "training.local_epochs": 1,
                "training.batch_size": 50,
                "training.learning_rate": 512.0,
            },
        ),
    },
)

_ADULT = Workload(
    name="adult",
    title="Census income",
    config="adult_least_squares",
    seeds=(1,),
    series={
        "distributed": Series(
            trust="distributed",
            what="least squares",
            settings={"transport.secagg.threshold": 9},
            at={1: {}, 2: {}, 4: {}, 8: {}},
        ),
    },
)

_SPOKEN = Workload(
    name="spoken",
    title="Spoken digits",
    config="spoken_digits_shared",
    seeds=(1, 2, 3),
    series={
        "distributed": Series(
            trust="distributed",
            what="linear, log-mel features",
            at={
                1: {"training.learning_rate": 32.0},
                2: {"training.learning_rate": 128.0},
                4: {"training.learning_rate": 256.0},
                8: {"training.learning_rate": 512.0},
            },
        ),
        "local": Series(
            trust="local",
            what="linear, log-mel features",
            settings=LOCAL,
            at={
                1: {"federation.rounds": 10, "training.learning_rate": 128.0},
                2: {"federation.rounds": 20, "training.learning_rate": 128.0},
                4: {"training.learning_rate": 128.0},
                8: {"training.learning_rate": 256.0},
            },
        ),
        "none": Series(
            trust="none",
            what="linear, log-mel features",
            settings={**NO_PRIVACY, "training.local_steps": 5, "training.learning_rate": 128.0},
        ),
    },
)

_AG_NEWS_TUNING = "layers, rates and rounds: at most 48 settings for each budget, on the training records alone"

_TWO_LAYERS: Settings = {
    "task.encoder": "simulations.minilm_layers:build",
    "task.encoder_origin": "public texts: the network and its weights are those of all-MiniLM-L6-v2",
}

_AG_NEWS = Workload(
    name="ag_news",
    title="AG News",
    config="ag_news_shared",
    seeds=(1, 2, 3),
    series={
        "distributed": Series(
            trust="distributed",
            what="linear, MiniLM",
            settings={
                **_TWO_LAYERS,
                "federation.rounds": 20,
                "federation.min_results": 9,
                "training.learning_rate": 800.0,
                "privacy.colluders": 1,
                "privacy.tuning": _AG_NEWS_TUNING,
                "transport.secagg.enabled": None,
                "transport.secagg.threshold": 9,
                "transport.secagg.bits": 25,
            },
            at={
                1: {},
                2: {},
                4: {"federation.rounds": 40},
                8: {"federation.rounds": 40, "training.learning_rate": 1600.0},
            },
        ),
        "local": Series(
            trust="local",
            what="linear, MiniLM",
            settings={
                **LOCAL,
                **_TWO_LAYERS,
                "federation.rounds": 10,
                "training.learning_rate": 1600.0,
                "privacy.tuning": _AG_NEWS_TUNING,
                "transport.secagg.enabled": None,
            },
            at={
                1: {"training.learning_rate": 400.0},
                2: {"training.learning_rate": 800.0},
                4: {},
                8: {"federation.rounds": 20, "training.learning_rate": 800.0},
            },
        ),
        "least-squares": Series(
            trust="distributed",
            what="least squares, MiniLM",
            main=False,
            settings={
                "federation.rounds": 1,
                "federation.min_results": 9,
                "task.model": None,
                "training.solver": "least-squares",
                "training.feature_norm": 1.0,
                "training.schedule": "constant",
                "privacy.clip_norm": 1.0,
                "privacy.colluders": 1,
                "privacy.tuning": "none",
                "transport.secagg.enabled": None,
                "transport.secagg.threshold": 9,
                "transport.secagg.bits": 28,
            },
            at={1: {}, 2: {}, 4: {}, 8: {}},
        ),
        "none": Series(
            trust="none",
            what="linear, MiniLM",
            settings={
                **NO_PRIVACY,
                **_TWO_LAYERS,
                "transport.secagg.enabled": None,
                "federation.rounds": 60,
                "training.learning_rate": 64.0,
            },
        ),
    },
)

WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload for workload in (_DIGITS, _CIFAR10, _AG_NEWS, _ADULT, _SPOKEN)
}
