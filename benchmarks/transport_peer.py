"""Flower's SecAgg+, driven through the functions that its client mod and its workflow call, with their defaults.

Its messages are not serialized, and its state is not written between the exchanges: both would add to its time.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import Parameters, bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key
from numpy.typing import NDArray
from transport_measure import Stopwatch, Work

MODULUS = 1 << 32
_TARGET, _CLIPPING = 1 << 22, 8.0
_SHARE_BYTES = 4 + 48

Vector = list[NDArray[Any]]


def add_masks(vector: Vector, seeds: Sequence[bytes]) -> Vector:
    """Return a quantized vector plus the masks of seeds, as a client adds those of its neighbours."""
    shapes = get_parameters_shape(vector)
    for seed in seeds:
        vector = parameters_addition(vector, pseudo_rand_gen(seed, MODULUS, shapes))
    return parameters_mod(vector, MODULUS)


class Peers:
    """A cohort in which all share with all. Each client's work has a stopwatch of its own, and so has the server's."""

    def __init__(self, members: int, threshold: int) -> None:
        self.threshold = threshold
        self.server = Stopwatch()
        self.work = {node: Stopwatch() for node in range(members)}
        self.states = {node: SecAggPlusState(nid=node) for node in range(members)}
        self.sent = dict.fromkeys(range(members), 0)
        settings = {
            Key.SAMPLE_NUMBER: members,
            Key.SHARE_NUMBER: members,
            Key.THRESHOLD: threshold,
            Key.CLIPPING_RANGE: _CLIPPING,
            Key.TARGET_RANGE: _TARGET,
            Key.MOD_RANGE: MODULUS,
            Key.MAX_WEIGHT: 1.0,
        }
        self.keys: dict[str, tuple[bytes, bytes]] = {}
        for node in self.states:
            announced = self._client(node, _setup, settings)
            self.keys[str(node)] = announced[Key.PUBLIC_KEY_1], announced[Key.PUBLIC_KEY_2]

    def shares(self, node: int) -> list[bytes]:
        """Return the encrypted shares of a client's secrets, in order of the other clients."""
        answer = self._client(node, _share_keys, dict(self.keys))
        ciphertexts: list[bytes] = answer[Key.CIPHERTEXT_LIST]
        return ciphertexts

    def made_up_shares(self, node: int) -> dict[int, bytes]:
        """Return what the others would send to a client, of the right length and without their work."""
        return {
            other: encrypt(
                generate_shared_key(bytes_to_private_key(state.sk2), bytes_to_public_key(self.keys[str(node)][1])),
                share_keys_plaintext_concat(other, node, bytes(_SHARE_BYTES), bytes(len(state.sk1) + 20)),
            )
            for other, state in self.states.items()
            if other != node
        }

    def mask(self, node: int, parameters: Parameters, shares: dict[int, bytes]) -> list[bytes]:
        """Return a client's masked update as it is sent."""
        configs = {Key.CIPHERTEXT_LIST: list(shares.values()), Key.SOURCE_LIST: list(shares)}
        masked: list[bytes] = self._client(node, _collect_masked_vectors, configs, 1, parameters)[Key.MASKED_PARAMETERS]
        return masked

    def unmask(self, node: int, survivors: list[int], dropped: list[int]) -> list[bytes]:
        """Return a client's shares, in order of the survivors and of the dropped."""
        configs = {Key.ACTIVE_NODE_ID_LIST: survivors, Key.DEAD_NODE_ID_LIST: dropped}
        answer = self._client(node, _unmask, configs)
        shares: list[bytes] = answer[Key.SHARE_LIST]
        return shares

    def add(self, total: Vector, masked: list[bytes]) -> Vector:
        """Add a masked update to the server's total."""
        return self.server.timed(self._added, total, masked)

    def take_off(self, total: Vector, node: int, shares: list[bytes], *, survived: bool) -> Vector:
        """Take a client's own mask off the server's total, or those of its pairs if it dropped out."""
        return self.server.timed(self._own if survived else self._pairs, total, node, shares)

    def average(self, total: Vector, clients: int) -> NDArray[np.float64]:
        """Return what the unmasked total stands for, weights and all."""
        weight, vector = parameters_mod(total, MODULUS)
        values: NDArray[np.float64] = dequantize([vector], _CLIPPING, _TARGET)[0]
        return (values - (clients - 1) * _CLIPPING) * (_TARGET / float(weight[0]))

    def _added(self, total: Vector, masked: list[bytes]) -> Vector:
        vector = [bytes_to_ndarray(data) for data in masked]
        return parameters_addition(total, vector) if total else vector

    def _own(self, total: Vector, _node: int, shares: list[bytes]) -> Vector:
        seed = combine_shares(shares)
        return parameters_subtraction(total, pseudo_rand_gen(seed, MODULUS, get_parameters_shape(total)))

    def _pairs(self, total: Vector, node: int, shares: list[bytes]) -> Vector:
        secret = combine_shares(shares)
        for other in self.states:
            if other != node:
                key = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(self.keys[str(other)][0]))
                mask = pseudo_rand_gen(key, MODULUS, get_parameters_shape(total))
                total = (parameters_addition if node > other else parameters_subtraction)(total, mask)
        return total

    def _client(self, node: int, stage: Callable[..., dict[str, Any]], *args: object) -> dict[str, Any]:
        answer = self.work[node].timed(stage, self.states[node], *args)
        self.sent[node] += sum(_size(value) for value in answer.values())
        return answer


def run(members: int, threshold: int, updates: Callable[[int], NDArray[np.float32]], *, lost: int, silent: int) -> Work:
    """Run a round in full, in which the first clients are lost before they mask and the next ones before they unmask.

    Raises:
        ValueError: the average is wrong.
    """
    peers = Peers(members, threshold)
    to: dict[int, dict[int, bytes]] = {node: {} for node in peers.states}
    for node in peers.states:
        others = [other for other in peers.states if other != node]
        for other, ciphertext in zip(others, peers.shares(node), strict=True):
            to[other][node] = ciphertext
    dropped, survivors = list(range(lost)), list(range(lost, members))
    total: Vector = []
    for node in survivors:
        total = peers.add(total, peers.mask(node, ndarrays_to_parameters([updates(node)]), to[node]))
    answers = [peers.unmask(node, survivors, dropped) for node in survivors[silent:]]
    for place, node in enumerate(survivors + dropped):
        total = peers.take_off(total, node, [answer[place] for answer in answers], survived=node >= lost)
    expected = np.mean([updates(node) for node in survivors], axis=0, dtype=np.float64)
    if not np.allclose(peers.average(total, len(survivors)), expected, atol=2 * _CLIPPING / _TARGET):
        raise ValueError("the average of Flower's SecAgg+ is not that of the updates")
    clients = tuple(peers.work[node].seconds for node in survivors)
    return Work(server=peers.server.seconds, clients=clients, sent=peers.sent[survivors[-1]])


def one_client(members: int, threshold: int, update: NDArray[np.float32], *, lost: int) -> tuple[Work, list[bytes]]:
    """Do all of one client's work, and return its masked update, too. What the others send it is made up."""
    peers = Peers(members, threshold)
    node = members - 1
    peers.shares(node)
    masked = peers.mask(node, ndarrays_to_parameters([update]), peers.made_up_shares(node))
    peers.unmask(node, list(range(lost, members)), list(range(lost)))
    return Work(server=0.0, clients=(peers.work[node].seconds,), sent=peers.sent[node]), masked


def scaled(members: int, threshold: int, masked: list[bytes], *, lost: int, silent: int) -> float:
    """Return the seconds of the server: its work for one survivor and for one lost client, times their numbers."""
    peers = Peers(members, threshold)
    survivors, answering = members - lost, members - lost - silent
    own = create_shares(os.urandom(32), threshold, members)[:answering]
    key = create_shares(peers.states[0].sk1, threshold, members)[:answering]
    total = [bytes_to_ndarray(data) for data in masked]
    parts: list[tuple[int, Callable[[], Vector]]] = [
        (survivors, lambda: peers.add(total, masked)),
        (survivors, lambda: peers.take_off(total, 0, own, survived=True)),
        (lost, lambda: peers.take_off(total, 0, key, survived=False)),
    ]
    seconds = 0.0
    for count, part in parts:
        before = peers.server.seconds
        part()
        seconds += count * (peers.server.seconds - before)
    return seconds


def _size(value: object) -> int:
    """Return the bytes of a value in a message, without its framing."""
    if isinstance(value, list):
        return sum(_size(item) for item in value)
    return len(value) if isinstance(value, bytes) else 8
