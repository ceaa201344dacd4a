"""Derive independent seeds, so that nothing random depends on the order in which work is done."""

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a 63-bit seed for the purpose that the labels name.

    Different labels give unrelated seeds (SHA-256 over an unambiguous encoding). For simulations: the seed
    gives away everything drawn from it.
    """
    encoded = repr((seed, *labels)).encode()
    return int.from_bytes(sha256(encoded).digest()[:8], "big") >> 1


def seeded_generator(seed: int, *labels: str | int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a torch generator seeded for the purpose that the labels name.

    On a CPU torch uses 32 bits of the seed, so that of 10,000 streams two are equal with a probability of about 1 %:
    good enough for a simulation, and one more reason why it is no more than one.
    """
    import torch  # noqa: PLC0415 - takes a second, and most processes only derive seeds

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *labels))
