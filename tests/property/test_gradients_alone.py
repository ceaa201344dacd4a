"""Whatever a model is built of, a preflight refuses it, or names a way that gives each record its own gradient."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fedtrain.data import ClassTarget, Columns, DataInfo
from fedtrain.errors import TaskError
from fedtrain.tasks import ClassificationMetrics, Records, Task
from fedtrain.tasks.calls import forward, losses
from fedtrain.training.gradients import NotRecordsError, by_loop, by_vmap, collate_alone
from fedtrain.training.preflight import WATCHING, preflight

PLACES, WIDTH, BOUND = 2, 4, 0.1
INFO = DataInfo(features=Columns(shape=(PLACES * WIDTH,)), target=ClassTarget(names=("a", "b", "c")))


def sorted_and_back(layer, x):
    order = x[:, 0, 0].argsort()
    return layer(x[order])[order.argsort()]


def for_some(layer, x):
    some, result = x[:, 0, 0] > 0, x.clone()
    result[some] = layer(x[some])
    return result


def kept(model, x):
    before, model.memory = model.memory, x.detach().mean(0)
    return x if before is None else x + before


WITH_LAYER = {
    "called": lambda layer, x: layer(x),
    "twice": lambda layer, x: layer(torch.tanh(layer(x))),
    "by keyword": lambda layer, x: layer(input=x),
    "as rows": lambda layer, x: layer(x.reshape(-1, WIDTH)).reshape(x.shape),
    "places first": lambda layer, x: layer(x.transpose(0, 1)).transpose(0, 1),
    "sorted": sorted_and_back,
    "for some": for_some,
    "its weights": lambda layer, x: functional.linear(x, layer.weight),
    "and a constant": lambda layer, x: layer(x) + layer(torch.ones(1, 1, WIDTH, dtype=x.dtype)),
    "a place alone": lambda layer, x: torch.cat([layer(x[:, :1]), x[:, 1:]], dim=1),
}
ALONE = {
    "tanh": lambda model, x: torch.tanh(x),
    "dropout": lambda model, x: functional.dropout(x, 0.5, model.training),
    "norm": lambda model, x: model.norm(x),
    "places": lambda model, x: x + model.places(torch.arange(PLACES)),
    "convolution": lambda model, x: model.convolution(x),
    "stored": lambda model, x: setattr(model, "last", x) or x,
    "mean of places": lambda model, x: x - x.mean(1, keepdim=True),
}
MEETING = {
    "mean of records": lambda model, x: x - x.mean(0),
    "flipped": lambda model, x: 0.5 * x + 0.5 * x.flip(0),
    "kept": kept,
}
steps = st.one_of(
    st.tuples(st.sampled_from(sorted(WITH_LAYER)), st.integers(0, 1)),
    st.tuples(st.sampled_from(sorted(ALONE | MEETING)), st.none()),
)


class Generated(nn.Module):
    """Takes steps one after another, with two layers to share."""

    def __init__(self, taken, mode):
        super().__init__()
        self.taken, self.memory, self.last = taken, None, None
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.norm, self.places = nn.LayerNorm(WIDTH), nn.Embedding(PLACES, WIDTH)
        self.convolution = nn.Conv1d(PLACES, PLACES, 3, padding=1, padding_mode=mode)
        self.head = nn.Linear(PLACES * WIDTH, 3)
        used = {name for name, _ in taken}
        for index, layer in enumerate(self.layers):
            layer.requires_grad_(any(number == index for _, number in taken))
        for layer in ("norm", "places", "convolution"):
            getattr(self, layer).requires_grad_(layer in used)

    def forward(self, features):
        x = features.reshape(len(features), PLACES, WIDTH)
        for name, number in self.taken:
            x = WITH_LAYER[name](self.layers[number], x) if number is not None else (ALONE | MEETING)[name](self, x)
        return self.head(x.flatten(1))


class Generates(Task):
    def __init__(self, taken, mode):
        self.taken, self.mode = taken, mode

    def model(self):
        torch.manual_seed(0)
        return Generated(self.taken, self.mode).double()

    def collate(self, records, generator):
        return {"inputs": records.features.double(), "targets": records.targets}

    def losses(self, outputs, batch):
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics(3)


def records(count, seed):
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(count, PLACES * WIDTH, generator=draw)
    return Records(features=features, targets=torch.randint(0, 3, (count,), generator=draw))


@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(st.lists(steps, max_size=4), st.sampled_from(["zeros", "circular"]), st.integers(1, 9), st.integers(0, 99))
@example([("places first", 0)], "zeros", PLACES, 0)
@example([("as rows", 0)], "zeros", 1, 0)
@example([("sorted", 0), ("tanh", None), ("sorted", 1)], "zeros", 8, 0)
@example([("for some", 0), ("its weights", 0)], "zeros", 8, 0)
@example([("places", None), ("convolution", None)], "circular", PLACES, 0)
@example([("kept", None)], "zeros", 3, 0)
def test_a_model_is_refused_or_gives_each_record_the_gradient_of_its_loss_alone(taken, mode, count, seed):
    task = Generates(taken, mode)
    try:
        proof = preflight(task.model(), task, INFO)
    except TaskError:
        assert any(name in MEETING for name, _ in taken)
        return
    # What is dropped differs from call to call, so all is kept.
    model, data = task.model(), records(count, seed)
    if any(name == "dropout" for name, _ in taken):
        assert proof.draws
        model.eval()
        if proof.way == "hooks":
            return  # Opacus' hooks are off in evaluation
    ones = collate_alone(task, data, None)
    found, right = by_loop(task, model, ones)
    batch = task.collate(data, None)
    torch.testing.assert_close(losses(task, forward(task, model, batch), batch).detach(), found)
    if proof.way in WATCHING:
        with WATCHING[proof.way](model) as run:
            try:
                _, found = run(task, batch)
            except NotRecordsError:
                return  # a branch that synthetic records did not take
        gradients = found.rows(slice(None))
        rows = torch.cat([gradient.flatten(1) for gradient in right], dim=1)
        torch.testing.assert_close(found.squares(), rows.square().sum(1))
        clipped = (rows * (BOUND / (rows.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)).sum(0)
        torch.testing.assert_close(torch.cat([total.flatten() for total in found.clipped(BOUND)]), clipped)
    else:
        _, gradients = (by_vmap if proof.way == "vmap" else by_loop)(task, model, ones)
    torch.testing.assert_close(gradients, right)


@pytest.mark.parametrize("name", MEETING)
def test_a_step_in_which_records_meet_is_refused_after_any_other(name):
    for other in ("tanh", "stored"):
        task = Generates([(other, None), ("called", 0), (name, None)], "zeros")
        with pytest.raises(TaskError, match="cannot be trained privately"):
            preflight(task.model(), task, INFO)
