"""The features of texts that experiments take from two layers of MiniLM."""

import pytest
import torch
from torch.nn import functional

from fedtrain.encoders import minilm
from tests.minilm import tokenizer


@pytest.fixture
def network(monkeypatch):
    """Give a network of few words that is drawn at random."""
    monkeypatch.setattr(minilm, "_WORDS", 40)
    torch.manual_seed(0)
    made = minilm.MiniLM(tokenizer().to_str().encode()).eval().requires_grad_(requires_grad=False)
    for value in made.parameters():
        value.normal_(std=0.1)
    return made


def test_the_last_layer_and_half_of_the_one_before_have_norm_1_together(script, network):
    features = script("minilm_layers").LastTwoLayers(network)
    text = torch.tensor([[*b"a b sep c", 0, 0]], dtype=torch.uint8)
    both = [functional.normalize(part, dim=0) for part in features(text)[0].split(minilm.WIDTH)]
    assert features(text).shape == (1, 2 * minilm.WIDTH)
    assert features(text).norm().item() == pytest.approx(1)
    ratio = features(text)[0, minilm.WIDTH :].norm() / features(text)[0, : minilm.WIDTH].norm()
    assert ratio.item() == pytest.approx(0.5)
    assert torch.allclose(both[0], network(text)[0])
    network.blocks = network.blocks[:-1]
    assert torch.allclose(both[1], network(text)[0], atol=1e-6)
