"""Trained weights of an adapted network that nothing moves, with networks of transformers and adapters of peft."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedtrain.data import ClassTarget, DataInfo
from fedtrain.data.types import Columns, Tokens
from fedtrain.errors import TaskError
from fedtrain.privacy.mechanisms.base import Requirements
from fedtrain.tasks import ClassificationMetrics, PublicWeights, Task, build_model, digest_of_frozen
from fedtrain.training import check_model
from fedtrain.training.gradients import trainable

INFO = DataInfo(features=Tokens(shape=(6,), vocabulary=40), target=ClassTarget(names=("a", "b")))
PRIVATE, PLAIN = Requirements(per_record_gradients=True), Requirements()
STILL = r"of its \d+ trained parameters \d+ have no gradient of any synthetic record .* while loss and epsilon look as"

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:None of the inputs have requires_grad")


class Adapted(nn.Module):
    def __init__(self, change, **options):
        import peft  # here: it takes seconds, and collecting tests needs none of it
        import transformers

        super().__init__()
        sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
        quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = transformers.BertConfig(vocab_size=40, max_position_embeddings=16, **sizes, **quiet)
        network = transformers.BertModel(config, add_pooling_layer=False)
        options = {"r": 2, "target_modules": ["query", "value"], **options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.network = peft.get_peft_model(network, peft.LoraConfig(**options))
        change(self.network)
        self.dense = nn.Linear(8, 2)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1]).expand(tokens.shape)
        there = ((tokens != 0) | (places == 0)).to(torch.int64)
        hidden = self.network(input_ids=tokens, attention_mask=there, position_ids=places).last_hidden_state
        return self.dense((hidden * there.unsqueeze(2)).sum(1))


class Texts(Task):
    def __init__(self, change=lambda network: None, **options):
        self.change, self.options = change, options

    def model(self):
        return Adapted(self.change, **self.options)

    def collate(self, records, generator):
        return {"inputs": records.features.long(), "targets": records.targets}

    def losses(self, outputs, batch):
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics(2)


def checkpointing(*, reentrant, inputs=False):
    def change(network):
        options = {"use_reentrant": reentrant}
        network.base_model.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        if inputs:
            network.enable_input_require_grads()

    return change


def checked(task, requires):
    return check_model(build_model(task), requires, task=task, info=INFO)


@pytest.mark.parametrize("requires", [PRIVATE, PLAIN], ids=["private", "plain"])
def test_adapters_that_move_are_trained(requires):
    found = checked(Texts(), requires)
    assert found is None if requires is PLAIN else found.way == "book-keeping"


@pytest.mark.parametrize("requires", [PRIVATE, PLAIN], ids=["private", "plain"])
def test_adapters_that_are_merged_into_the_network_are_refused(requires):
    with pytest.raises(TaskError, match=STILL) as refused:
        checked(Texts(lambda network: network.merge_adapter()), requires)
    assert "lora_A.default.weight" in str(refused.value)
    assert "for adapters that are merged" in str(refused.value)


@pytest.mark.parametrize("requires", [PRIVATE, PLAIN], ids=["private", "plain"])
@pytest.mark.parametrize("task", ["disabled", "inference"])
def test_adapters_that_are_frozen_are_refused(task, requires):
    tasks = {
        "disabled": Texts(lambda network: network.base_model.disable_adapter_layers()),
        "inference": Texts(inference_mode=True),
    }
    with pytest.raises(
        TaskError, match=r"lora_B\.default\.weight .* of its adapters are frozen, .* inference_mode=True"
    ):
        checked(tasks[task], requires)


def test_reentrant_checkpointing_of_inputs_with_gradients_moves_all_without_privacy_and_nothing_with_it():
    task = Texts(checkpointing(reentrant=True, inputs=True))
    assert checked(task, PLAIN) is None
    with pytest.raises(TaskError, match=STILL) as refused:
        checked(task, PRIVATE)
    assert "use_reentrant=True, which layer network has: leave it out" in str(refused.value)
    assert 'gradient_checkpointing_kwargs={"use_reentrant": False}' in str(refused.value)


def test_checkpointing_that_is_not_reentrant_has_the_gradients_of_records_alone():
    """Opacus' hooks miss most of its tensors; book-keeping was tried against each record alone."""
    task = Texts(checkpointing(reentrant=False))
    found = checked(task, PRIVATE)
    assert (found.way, found.reason) == ("book-keeping", "")
    assert len(trainable(build_model(task))) == 10


def test_weights_that_are_taken_apart_are_trained_one_record_after_another_and_it_is_said():
    found = checked(Texts(use_dora=True), PRIVATE)
    assert found.way in {"vmap", "loop"}
    assert "rows that are not the records" in found.notice


class Positions(nn.Module):
    """A table of places that is looked up once for all records."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(40, 4), nn.Embedding(6, 4)
        self.dense = nn.Linear(4, 2)

    def forward(self, tokens):
        return self.dense((self.words(tokens) + self.places(torch.arange(6).unsqueeze(0))).mean(1))


def test_places_that_are_looked_up_once_for_all_records_are_named_with_the_remedy():
    class Placed(Texts):
        def model(self):
            return Positions()

    found = checked(Placed(), PRIVATE)
    assert found.way in {"vmap", "loop"}
    assert "layer places (Embedding)" in found.notice
    assert "one for all of them: expand position ids and the like to a row for each record" in found.notice


class Half(nn.Module):
    def __init__(self, *, used):
        super().__init__()
        self.frozen, self.spare, self.head = nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 3), nn.Linear(3, 2)
        self.used = used

    def forward(self, rows):
        hidden = self.frozen(rows)
        return self.head(hidden + self.spare(hidden) if self.used else hidden)


@pytest.mark.parametrize("requires", [PRIVATE, PLAIN], ids=["private", "plain"])
def test_any_model_with_frozen_weights_is_looked_at(requires):
    class Rows(Texts):
        def __init__(self, *, used):
            self.used = used

        def model(self):
            return Half(used=self.used)

        def collate(self, records, generator):
            return {"inputs": records.features, "targets": records.targets}

    info = DataInfo(features=Columns(shape=(3,)), target=INFO.target)
    task = Rows(used=True)
    check_model(build_model(task), requires, task=task, info=info)
    task = Rows(used=False)
    with pytest.raises(TaskError, match=r"spare\.weight, spare\.bias\. Look for"):
        check_model(build_model(task), requires, task=task, info=info)


class Unfreezing(Half):
    """It unfreezes in training what it was built with, as gradual unfreezing does."""

    def train(self, mode=True):  # noqa: FBT002 - as torch has it
        if mode:
            self.frozen.requires_grad_()
        return super().train(mode)


class Following(Half):
    """A frozen part follows the trained one, as the teacher in a pair of networks does."""

    def forward(self, rows):
        self.frozen.weight.data = 0.9 * self.frozen.weight.data + 0.1 * self.spare.weight.data
        return super().forward(rows)


@pytest.mark.parametrize("requires", [PRIVATE, PLAIN], ids=["private", "plain"])
@pytest.mark.parametrize("net", [Unfreezing, Following])
def test_a_model_that_trains_what_its_task_declares_public_is_refused(net, requires):
    class Rows(Texts):
        digest = ""

        def model(self):
            torch.manual_seed(0)
            return net(used=True)

        def public_weights(self, model):
            return PublicWeights(origin="a book", digest=self.digest)

        def collate(self, records, generator):
            return {"inputs": records.features, "targets": records.targets}

    task = Rows()
    task.digest = digest_of_frozen(task.model())
    info = DataInfo(features=Columns(shape=(3,)), target=INFO.target)
    with pytest.raises(TaskError, match=r"weights that its task declares public: frozen\.weight"):
        check_model(build_model(task), requires, task=task, info=info)
