"""What a person who looks at a run would say before it, of records, model and plan; `result_warnings` is of after it.

Each function returns sentences, and nothing where there is nothing to say. They end no run. What they read is said with
each: test records are the server's own, and what is read from training records is said where their number may be shown.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedtrain.config import Experiment
from fedtrain.config.sections import ROBUST
from fedtrain.data import WIDE, DataInfo, Labels, Split
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.correlation import errors
from fedtrain.privacy.mechanisms import mechanism_of, mechanism_of_plan
from fedtrain.report.numbers import count, short
from fedtrain.report.trusts import nothing_gained
from fedtrain.report.wording import called
from fedtrain.tasks import Records, Task
from fedtrain.tasks.adapters import averages_factors
from fedtrain.tasks.calls import collate
from fedtrain.tasks.user_code import telling

_NUMBERS = 1_000_000  # that are looked at together
_DIFFERENT, _SAME, _FEW = 0.9, 0.1, 5  # parts of the records that differ, and that are in both sets; and how many
_TRIED = 1000  # records that a task is asked to encode
_SHOWN = 3
_OFF = 1.5  # how far a size may be from what the constants imply
_LOUD = 2.0  # digits were learned at 1, and hardly at 3
_REASON = 300


def of_ranges(task: Task, split: Split, info: DataInfo, *, which: str) -> list[str]:
    """Say which features of a table are beyond 100 in size as the model gets them, and whether targets are.

    Args:
        task: encodes the features.
        split: the records.
        info: their schema.
        which: what the records are called.
    """
    found = []
    if info.kind == "table" and (wide := _still_wide(task, split)):
        more = f" and {len(wide) - _SHOWN} more" if len(wide) > _SHOWN else ""
        found.append(
            f"{len(wide)} of {info.shape[0]} features have values beyond {WIDE:g} in size in the {which} records: "
            f"{', '.join(short(info.feature(index), 40) for index in wide[:_SHOWN])}{more}. Nothing scales them, and a "
            "model that gets such inputs often learns no more than one answer for all records, whatever it spends. "
            "Scale each column with public constants before training: (value - low) / (high - low), with bounds that "
            "everyone knows. A mean or deviation of the training records is private, and no epsilon pays for it"
        )
    if info.target.kind == "number" and np.abs(split.targets).max() > WIDE:
        found.append(
            f"the {which} records have targets beyond {WIDE:g} in size, whose squared errors make steps far too long. "
            "Divide the targets by a public constant before training, for example by the unit that people use"
        )
    return found


def _still_wide(task: Task, split: Split) -> list[int]:
    """Return the features of a table that are beyond the bound, and are still so in what the task makes of them."""
    wide, rows = split.wide_columns()
    chosen = np.unique(rows[:_TRIED])
    if not len(wide):
        return []
    records = Records(
        features=torch.from_numpy(np.array(split.features[chosen])),
        targets=torch.from_numpy(np.array(split.targets[chosen])),
    )
    with telling("collate of the task"):
        batch = collate(task, records, None)
    tensors = [value for name, value in batch.items() if value.is_floating_point() and name != "targets"]
    return wide.tolist() if any(bool((value.abs() > WIDE).any()) for value in tensors) else []


def of_stacking(why_not: str) -> str:
    """Say why clients train one after another although several are to train at once.

    Args:
        why_not: the reason; empty where there is none.
    """
    if not why_not:
        return ""
    return f"training.stacked has no effect, and clients train one after another: {short(why_not, _REASON)}"


def of_lengths(split: Split, info: DataInfo, *, which: str) -> str:
    """Say how many texts fill all the room that there is, so that what they have beyond it is not read.

    Args:
        split: the records, as they are stored or as tokens.
        info: their schema.
        which: what the records are called.
    """
    full = split.cut_texts(info)
    if not full:
        return ""
    field, unit = ("data.max_bytes", "bytes") if info.kind == "text" else ("task.max_tokens", "tokens")
    return (
        f"{count(full)} of {count(len(split))} {which} texts have {field} = {info.shape[0]} {unit} or more, and what "
        "is beyond is not read"
    )


def of_classes(histogram: Labels, test: Split, names: Sequence[str]) -> list[str]:
    """Say which classes only the test records have, or only the training records of all clients."""
    trained, tested = histogram.sum(axis=0) > 0, np.bincount(test.targets, minlength=len(names)) > 0
    found = []
    for missing, text in (
        (
            tested & ~trained,
            "no client has a training record of {}, which test records are of: all of them will be wrong",
        ),
        (trained & ~tested, "no test record is of {}, which clients train on: nothing measures how well it is learned"),
    ):
        if missing.any():
            shown = [short(names[int(index)], 40) for index in np.flatnonzero(missing)]
            more = f" and {len(shown) - _SHOWN} more classes" if len(shown) > _SHOWN else ""
            found.append(text.format(", ".join(shown[:_SHOWN]) + more))
    return found


def of_overlap(train: Split, test: Split) -> str:
    """Say where many test records are training records too, features and target, so that they test nothing.

    Of records that are often equal by their nature, as rows of few categories are, nothing is said.
    """
    some = slice(None, None, max(1, len(test) // _TRIED))
    looked = _hashes(Split(features=test.features[some], targets=test.targets[some]))
    trained = np.sort(_hashes(train))
    known = trained[np.searchsorted(trained, looked).clip(max=len(trained) - 1)] == looked
    if len(np.unique(looked)) < _DIFFERENT * len(looked) or known.mean() < _SAME or known.sum() < _FEW:
        return ""
    return (
        f"{100 * known.mean():.0f} % of the test records are training records too, so that they do not show how the "
        "model does on others. Hold records out with data.test_fraction, or name other files in data.test_path"
    )


def _hashes(split: Split) -> NDArray[np.uint64]:
    """Return a number for each record, shape (n,): equal for equal ones, and as good as never for others.

    The words of 32 bits in features and target, each times a random number of its own, are added modulo 2**64.
    """
    hashes = np.zeros(len(split), np.uint64)
    generator = np.random.default_rng(0)
    for array in (split.features, split.targets):
        size = array[:1].nbytes
        if not size:  # the target is in the features
            continue
        weights = generator.integers(1, 2**64, -(-size // 4), np.uint64)
        together = max(1, _NUMBERS // len(weights))
        padded = np.zeros((min(together, len(split)), 4 * len(weights)), np.uint8)
        for start in range(0, len(split), together):
            rows = np.ascontiguousarray(array[start : start + together])
            padded[: len(rows), :size] = rows.view(np.uint8).reshape(len(rows), size)
            words = padded[: len(rows)].view(np.uint32).astype(np.uint64)
            hashes[start : start + together] += words @ weights
    return hashes


def of_sizes(plan: PrivacyPlan, sizes: Sequence[int], owners: Sequence[str]) -> list[str]:
    """Say where the clients' real sizes contradict the public constants, which say how many records a client has.

    Args:
        plan: the plan of a run.
        sizes: training records of each client.
        owners: their names, if they have names.
    """
    if mechanism_of_plan(plan).counts_clients:
        return []
    spec, middle, most = plan.spec, median(sizes), max(sizes)
    found = []
    rate = f"privacy.sampling_rate near {spec.divisor / middle:.2g}, or " if spec.divisor < middle else ""
    if not 1 / _OFF <= middle / spec.population <= _OFF:
        found.append(
            f"training.batch_size = {spec.divisor} and privacy.sampling_rate = {spec.sampling_rate:g} say that a "
            f"client has about {count(round(spec.population))} records, and the clients of this simulation have "
            f"{count(min(sizes))} to {count(most)}, half of them {count(round(middle))} or more. A step then takes "
            f"about {middle * spec.sampling_rate:.3g} records and divides by {spec.divisor}. Set {rate}"
            f"training.batch_size near {max(1, round(middle * spec.sampling_rate))}"
        )
    if spec.delta * most >= 1:
        largest = called([list(sizes).index(most)], owners)
        found.append(
            f"privacy.delta = {spec.delta:g} is not below one in the {count(most)} records of {largest}: such a "
            f"delta allows publishing one of them outright. Set it below {1 / most:.2g}"
        )
    if (empty := (1 - spec.sampling_rate) ** middle) > 0.5:  # noqa: PLR2004 - more often than not
        found.append(
            f"a step of a client takes no record at all in {100 * empty:.0f} % of cases, and is noise alone: "
            f"privacy.sampling_rate = {spec.sampling_rate:g} of {count(round(middle))} records. Raise it"
        )
    return found


def of_noise(plan: PrivacyPlan, experiment: Experiment, parameters: int) -> str:
    """Say where the noise of the run outweighs all that clipped contributions can sum up to.

    In a step, the mean of contributions of norm C at most has noise of norm ``s C sqrt(d)``, where s is the deviation
    of a value. Over T steps noises add up like ``sqrt(T)``, or by what they are correlated, and contributions at most
    like T.

    Args:
        plan: the plan.
        experiment: the experiment.
        parameters: d, the numbers that are trained.
    """
    spec, federation = plan.spec, experiment.federation
    steps = spec.steps_per_round * federation.rounds
    accumulated = sqrt(steps) if spec.correlation is None else float(errors(spec.correlation)[-1])
    ratio = mechanism_of_plan(plan).deviation(plan, federation.cohort) * sqrt(parameters) * accumulated / steps
    if ratio <= _LOUD:
        return ""
    return (
        f"the noise outweighs what can be learned: over the {count(steps)} steps of the run it moves the model's "
        f"{count(parameters)} parameters {ratio:.2g} times as far as all clipped contributions together can. Train a "
        "smaller model, sum over more records or clients in a step, take more rounds at the same epsilon, or allow a "
        "larger epsilon"
    )


def of_shares(plan: PrivacyPlan) -> str:
    """Say that nothing is gained where the noise is shared, and epsilon counts on one share; empty where it is not."""
    shares = plan.spec.shares
    return nothing_gained(plan) if shares is not None and shares.honest == 1 else ""


def of_single_records(sizes: Sequence[int], owners: Sequence[str], problem: str) -> str:
    """Say which clients have a single record, of a model that cannot be trained on one.

    Args:
        sizes: training records of each client.
        owners: their names, if they have names.
        problem: why the model cannot be trained on one record; empty where it can.
    """
    single = [client for client, size in enumerate(sizes) if size == 1]
    if not single or not problem:
        return ""
    return (
        f"{called(single, owners)} will fail in every round, with one training record each: the model takes "
        f"statistics over the records of a batch, and one has none ({short(problem, _REASON)}). Give them more "
        "records, or use a model that normalises each record alone, for example with GroupNorm"
    )


def of_statistics(experiment: Experiment, model: nn.Module) -> str:
    """Return in a sentence that a robust strategy leaves statistics unprotected; empty where it does not."""
    buffers = [name for name, value in model.named_buffers() if value.is_floating_point()]
    if mechanism_of(experiment).private or experiment.server.strategy not in ROBUST or not buffers:
        return ""
    return (
        f"{experiment.server.strategy} bounds what a client does to trained parameters alone; statistics are averaged "
        f"over all clients, and one client can set them: {', '.join(buffers[:5])}. Take a model without them, such as "
        "one with GroupNorm in the place of BatchNorm"
    )


def of_adapters(experiment: Experiment, trained: frozenset[str]) -> str:
    """Return in a sentence that adapters are averaged factor by factor; empty where they are not.

    Clients that share noise on gradients of one step send no models that could be averaged.

    Args:
        experiment: the experiment.
        trained: the names of what is trained and shared.
    """
    mechanism = mechanism_of(experiment)
    if not averages_factors(trained) or (mechanism.shares_noise and not mechanism.clips_updates):
        return ""
    return (
        "the factors A and B of each adapter are averaged over the clients one by one, and the product of two means is "
        "not the mean of the products: the aggregate is not exact. It is where A is frozen "
        '(task.lora_factors = "b"; in a model of your own lora_A.requires_grad_(False) with values that all have)'
    )
