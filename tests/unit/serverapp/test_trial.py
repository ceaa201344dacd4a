"""A task is tried before anything is trained: what fails names the user's own file and line."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedtrain.config import TaskConfig
from fedtrain.errors import TaskError
from fedtrain.report import Evaluation
from fedtrain.serverapp.channel import Channel
from fedtrain.serverapp.evaluation import evaluate, try_task
from fedtrain.serverapp.preparation import prepare
from fedtrain.serverapp.rounds import Rounds, initial_state
from fedtrain.tasks import CallerObjects
from fedtrain.tasks.base import Metric
from fedtrain.tasks.supervised import Vision
from tests.fakes import InProcessGrid, digits_experiment, private_experiment


class Digits(Vision):
    def __init__(self, info):
        super().__init__(TaskConfig(), info)

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def changed(change):
    """Return a task whose model is changed."""

    class Changed(Digits):
        def model(self):
            model = super().model()
            return change(model) or model

    return Changed


def kept(make):
    """Return a task whose model is made of one that the task keeps."""

    class Kept(Digits):
        def __init__(self, info):
            super().__init__(info)
            self.network = super().model()
            self.network.register_buffer("mean", torch.zeros(3))

        def model(self):
            return make(self.network, super().model())

    return Kept


def whole(network, fresh):
    return network


def around(network, fresh):
    return nn.Sequential(network, nn.Linear(10, 10))


def with_buffer(network, fresh):
    fresh.register_buffer("mean", network.mean[:])
    return fresh


def returning(**methods):
    """Return a task of which some methods are replaced."""
    return type("Replaced", (Digits,), methods)


def raising(*_arguments):
    raise KeyError("planted")


def frozen(model):
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def not_finite(model):
    nn.init.constant_(model[1].weight, float("nan"))


def sparse(model):
    model[1].weight = nn.Parameter(model[1].weight.detach().to_sparse())


def keeping_a_dict(model):
    class Keeping(nn.Identity):
        def get_extra_state(self):
            return {"seen": 1}

    model.append(Keeping())


class Locked(nn.Identity):
    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied")


def scripted(model):
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return torch.jit.script(model)


names = iter(range(1000))


def another_name(model):
    model.add_module(f"layer {next(names)}", nn.Linear(10, 10))


CASES = {
    "bfloat16": (
        changed(lambda model: model.to(torch.bfloat16)),
        r"1.weight .* torch.bfloat16, .*model.float\(\).*autocast",
    ),
    "a buffer in bfloat16": (
        changed(lambda model: model.register_buffer("mask", torch.ones(3, dtype=torch.bfloat16))),
        "weight mask .* torch.bfloat16",
    ),
    "a buffer of eight bits": (
        changed(lambda model: model.register_buffer("scale", torch.ones(3).to(torch.float8_e4m3fn))),
        "weight scale .* torch.float8",
    ),
    "a lazy layer": (
        changed(lambda _: nn.Sequential(nn.Flatten(), nn.LazyLinear(10))),
        r"lazy layer: 1.weight has no shape .*nn.Linear\(inputs, outputs\)",
    ),
    "nothing trainable": (changed(frozen), "no trainable parameter"),
    "no parameters": (changed(lambda _: nn.Flatten()), "no trainable parameter"),
    "no values": (changed(lambda model: model.to("meta")), 'has no values .*"meta"'),
    "a sparse weight": (changed(sparse), "1.weight .* is sparse"),
    "weights that are not finite": (changed(not_finite), "1.weight .* not finite before any training"),
    "a state that is no tensor": (changed(keeping_a_dict), r"keeps a dict as 2._extra_state .*only tensors are sent"),
    "a model that cannot be copied": (
        changed(lambda model: model.append(Locked())),
        r"a copy of it cannot be made .* cannot be copied \(test_trial.py, line \d+\)",
    ),
    "a model whose copies are not trained": (
        changed(scripted),
        r"in a copy of it .* 1\.weight is no weight, .*torch\.jit\.script .*return the model itself",
    ),
    "another model each time": (changed(another_name), "another model each time: the weight layer"),
    "the same model each time": (kept(whole), r"same weights each time: mean .*outside of its epsilon.*deepcopy"),
    "a new model around kept layers": (kept(around), "same weights each time: 0.mean is on the same memory"),
    "a new model with a kept buffer": (kept(with_buffer), "same weights each time: mean is on the same memory"),
    "no module": (returning(model=lambda self: lambda images: images), "a torch.nn.Module, and returned a function"),
    "no model": (returning(model=lambda self: None), "and returned nothing"),
    "a model that raises": (returning(model=raising), r"model\(\) of the task raised KeyError: 'planted' \(test_trial"),
    "a model that exits": (returning(model=lambda self: exit(3)), r"model\(\) of the task raised SystemExit: 3"),  # noqa: PLR1722
    "too few outputs": (
        changed(lambda _: nn.Sequential(nn.Flatten(), nn.Linear(64, 7))),
        "returns 7 numbers for a record, and the task takes 10",
    ),
    "inputs of another size": (
        changed(lambda _: nn.Sequential(nn.Flatten(), nn.Linear(65, 10))),
        "forward of the task raised RuntimeError: mat1 and mat2 shapes",
    ),
    "another precision": (changed(lambda model: model.double()), "forward of the task raised RuntimeError: .*dtype"),
    "collate that raises": (
        returning(collate=lambda self, records, generator: {"inputs": records.images}),
        r"collate of the task raised AttributeError: .*'images' \(test_trial.py, line \d+\)",
    ),
    "a device that is not there": (
        returning(forward=lambda self, model, batch: model(batch["inputs"].to("xpu"))),
        r"forward of the task raised .*\(test_trial.py, line \d+\)",
    ),
    "losses that raise": (returning(losses=raising), "losses of the task raised KeyError: 'planted'"),
    "losses that are not finite": (
        returning(losses=lambda self, outputs, batch: outputs.sum(1) * float("nan")),
        "not finite for any of the 8 test records",
    ),
    "losses without a gradient": (
        returning(
            losses=lambda self, outputs, batch: functional.cross_entropy(
                outputs.detach(), batch["targets"], reduction="none"
            )
        ),
        r"losses of the task has no gradient: .*detach\(\)",
    ),
    "names that are no collection": (returning(shared=lambda self, model: None), "shared of the task raised TypeError"),
    "metrics that raise": (returning(metrics=raising), "metrics of the task raised KeyError"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_task_that_cannot_be_trained_is_refused_before_anything_is(cache, case):
    task, message = CASES[case]
    with pytest.raises(TaskError, match=message):
        prepare(digits_experiment(cache), objects=CallerObjects(task=task))


def test_copies_of_a_kept_model_are_models_of_their_own(cache):
    task = kept(lambda network, fresh: copy.deepcopy(network))
    prepare(digits_experiment(cache), objects=CallerObjects(task=task))


SCORE = Metric(name="score", direction="higher", format="number")


def measuring(found, described=(SCORE,)):
    """Return a task whose metrics return what is found, or raise it."""

    class Measures:
        def __init__(self):
            self.described = described

        def update(self, outputs, batch):
            pass

        def compute(self):
            if isinstance(found, Exception):
                raise found
            return found

    return returning(metrics=lambda self: Measures())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (measuring(0.5), "a dict of numbers by name, and returned a float"),
        (measuring({"score": "good"}), "score = 'good' is not allowed: .*on 8 test records that were tried"),
        (measuring({"score": torch.tensor(True)}), "score = True is not allowed"),
        (measuring({"score": {1, 2}}), "returned a set as score, which no report can hold"),
        (
            measuring(ZeroDivisionError("planted")),
            r"compute of the task's metrics raised ZeroDivisionError: planted \(test",
        ),
        (measuring({"other": 1.0}), "describe 'score', .* no measurement of that name; it returns: other"),
        (measuring({"score": 1.0}, ("score",)), r"`described` .* is \('score',\), and is to be a tuple"),
        (measuring({"score": 1.0}, lambda: (SCORE,)), "is to be a tuple"),
        (
            measuring({"score": 1.0}, (Metric(name="score", direction="up", format="number"),)),
            '"higher" or "lower"',
        ),
    ],
)
def test_metrics_that_no_report_can_hold_are_refused_before_anything_is_trained(cache, task, message):
    with pytest.raises(TaskError, match=message):
        prepare(digits_experiment(cache), objects=CallerObjects(task=task))


@pytest.mark.parametrize(
    ("found", "reported"),
    [
        (torch.tensor(0.5, requires_grad=True), 0.5),
        (torch.tensor([0.5, 0.25]), [0.5, 0.25]),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (np.float32(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        ({"a": np.int64(3)}, {"a": 3}),
        ((1, 2), [1, 2]),
    ],
)
def test_measurements_in_tensors_and_arrays_become_numbers(plain, found, reported):
    task = measuring({"score": found})(plain.store.info)
    assert evaluate(plain.model, task, plain.store.test, round_number=1).own == {"score": reported}


def test_a_measurement_that_is_not_finite_is_null_and_named_with_its_round(plain, caplog):
    task = measuring({"score": float("nan"), "by class": [1.0, float("inf")], "fine": 1.0})(plain.store.info)
    evaluation = evaluate(plain.model, task, plain.store.test, round_number=3)
    assert evaluation.own == {"score": None, "by class": [1.0, None], "fine": 1.0}
    assert [record.getMessage() for record in caplog.records] == [
        "round 3: the task measured score, by class as not finite; the report has null for it"
    ]


def test_a_trial_leaves_weights_generator_and_mode_as_they_were(plain):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout(0.5))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    task = returning(model=lambda self: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)))
    try_task(task(plain.store.info), model, (), plain.store.test, device=torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("mode", ["record", "client"])
def test_a_complex_parameter_is_refused_where_noise_protects(cache, mode):
    class Waves(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(64, 10, dtype=torch.complex64))

        def forward(self, images):
            return (images.flatten(1).to(torch.complex64) @ self.weight).abs()

    objects = CallerObjects(task=returning(model=lambda self: Waves()))
    prepare(digits_experiment(cache), objects=objects)
    private = {"federation__sites": str(cache / "complex")}
    if mode == "client":
        private |= {"privacy__mode": "client", "privacy__sampling_rate": None}
    with pytest.raises(TaskError, match=r"its parameter weight is complex .*the real and the imaginary part"):
        prepare(private_experiment(cache, **private), objects=objects)


class Failing(Digits):
    """Measures until it is told to fail."""

    fails = False

    def metrics(self):
        if self.fails:
            raise KeyError("planted")
        return super().metrics()


def test_an_evaluation_that_fails_after_a_round_does_not_lose_it(cache, caplog):
    preparation = prepare(digits_experiment(cache), objects=CallerObjects(task=Failing))
    grid = InProcessGrid(lambda message: message.content, range(4))
    rounds = Rounds(Channel(grid=grid, clients={node: node for node in range(4)}), preparation, None, done=0)
    before = initial_state(preparation)
    preparation.task.fails = True
    with pytest.raises(TaskError, match="metrics of the task raised KeyError"):
        rounds.evaluated(before)
    after = rounds.evaluated(replace(before, round_number=2))
    assert after.evaluations == (Evaluation(round=2),)
    assert "round 2 is not evaluated, and its model is kept: metrics of the task raised KeyError" in caplog.text
