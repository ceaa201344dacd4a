"""The cost of sealing and of secure aggregation, beside Flower's SecAgg+ and beside what no protocol can go below.

    python benchmarks/transport.py [--quick] [--repeat N] [masks round sealing wire memory]

masks    a vector plus the masks of n neighbours: beside Flower's generator, and the bare keystream of as many bytes
round    a whole aggregation of 1M parameters in which 10% of the clients are lost: what server and clients work
sealing  encrypting and opening a model: beside AES-GCM of as many bytes; many recipients, beside a pass for each
wire     the bytes that a client sends in a round, both exchanges: beside its update in float32, and Flower's SecAgg+
memory   the peak of a client that masks, and of the server: beside one vector of 32-bit words

A ratio is ours to the peer's: below 1 is less. Both are measured in turn in one process, in CPU time, and the least of
the repeats counts; what others do on the machine moves seconds much more than ratios. --quick takes fewer neighbours
and clients, and 1M parameters instead of 10M.
"""

import argparse
import os
import statistics
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import transport_cohort as cohort
import transport_peer as peer
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from flwr.common import ndarrays_to_parameters
from numpy.typing import NDArray
from proof import require
from transport_measure import Line, Meter, fastest, show

from fedtrain.crypto import SealingKey, apply_mask
from fedtrain.messaging import Arrays, Body, decode, encode, open_sealed, seal
from fedtrain.secagg import quantize
from fedtrain.secagg.graph import default_threshold
from tests.unit.secagg.federation import Federation, identity_of

MILLION = 1_000_000
FLOWER, STREAM, GCM = "Flower SecAgg+", "AES-256-CTR alone", "AES-256-GCM alone"
FLOAT32 = 4
IN_FULL = 10  # the largest cohort for which Flower's SecAgg+ is not a matter of many minutes


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        lengths: parameters of a model.
        neighbours: of a client that masks.
        rounds: clients, how many are lost before they mask, and how many before they unmask.
        recipients: of a model.
        cohorts: in which a client's traffic is counted.
        repeat: runs of each.
    """

    lengths: tuple[int, ...] = (MILLION, 10 * MILLION)
    neighbours: tuple[int, ...] = (10, 32, 100)
    rounds: tuple[tuple[int, int, int], ...] = ((10, 1, 0), (10, 1, 1), (100, 5, 5), (100, 10, 0))
    recipients: tuple[int, ...] = (10, 100)
    cohorts: tuple[int, ...] = (10, 32, 100)
    repeat: int = 3


FULL = Size()
QUICK = Size(lengths=(MILLION,), neighbours=(10,), rounds=((10, 1, 1),), recipients=(10,), cohorts=(10,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; by default all")
    parser.add_argument("--quick", action="store_true", help="a small version, in less than 30 s")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, taken in turn")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    sizes = replace(QUICK if arguments.quick else FULL, repeat=arguments.repeat)
    print(f"{os.cpu_count()} cores, with a load of {os.getloadavg()[0]:.1f}. Ratios are what counts, not seconds.")
    for case in arguments.cases or CASES:
        CASES[case](sizes)


def masks(size: Size) -> None:
    lines = []
    for length in size.lengths:
        vector = np.zeros(length, dtype=np.uint32)
        theirs = [np.zeros(length, dtype=np.int64)]
        zeros, buffer = bytes(4 * length), bytearray(4 * length)
        for neighbours in size.neighbours:
            seeds = [os.urandom(32) for _ in range(neighbours)]
            ways = {
                "ours": partial(apply_mask, vector, *seeds, sign=1),
                FLOWER: partial(peer.add_masks, theirs, seeds),
                STREAM: partial(keystreams, zeros, buffer, seeds),
            }
            check_masks(vector, theirs, seeds)
            spent = fastest(ways, size.repeat)
            what = f"{length // MILLION}M parameters, {neighbours} neighbours"
            for name, ratio in ((FLOWER, 1 / 8), (STREAM, 2.0)):
                lines.append(Line(what=what, ours=spent["ours"], peer=name, theirs=spent[name], ratio=ratio))
    show("masks: CPU ms", lines)


def check_masks(vector: NDArray[np.uint32], theirs: list[NDArray[np.int64]], seeds: list[bytes]) -> None:
    """Require that both add a mask of every seed, and that ours comes off again."""
    masked = vector.copy()
    apply_mask(masked, *seeds, sign=1)
    require(np.count_nonzero(masked != vector) > 0.99 * len(vector), "the masks were not added")
    apply_mask(masked, *seeds, sign=-1)
    require(np.array_equal(masked, vector), "the masks do not come off again")
    one, all_of_them = peer.add_masks(theirs, seeds[:1])[0], peer.add_masks(theirs, seeds)[0]
    require(np.count_nonzero(all_of_them != one) > 0.99 * len(one), f"{FLOWER} did not add the masks")


def keystreams(zeros: bytes, buffer: bytearray, seeds: list[bytes]) -> None:
    for seed in seeds:
        Cipher(AES256(seed), CTR(bytes(16))).encryptor().update_into(zeros, buffer)


def rounds(size: Size) -> None:
    lines, notes = [], []
    for members, lost, silent in size.rounds:
        ours = [cohort.run(members, update_of, lost=lost, silent=silent) for _ in range(size.repeat)]
        clients = [min(times) for times in zip(*(work.clients for work in ours), strict=True)]
        threshold = default_threshold(members - 1)
        theirs, masked = peer.one_client(members, threshold, update_of(0), lost=lost)
        server, name = peer.scaled(members, threshold, masked, lost=lost, silent=silent), f"{FLOWER}, scaled"
        if members <= IN_FULL:
            theirs, name = peer.run(members, threshold, update_of, lost=lost, silent=silent), FLOWER
            notes.append(f"{server:.3f} scaled and {theirs.server:.3f} in full")
            server = theirs.server
        client = statistics.median(theirs.clients)
        mine = min(work.server for work in ours)
        what = f"{members} clients, lost {lost} + {silent}"
        lines += [
            Line(what=f"{what}: server", ours=mine, peer=name, theirs=server, most=5.0),
            Line(what=f"{what}: median client", ours=statistics.median(clients), peer=name, theirs=client),
            Line(what=f"{what}: largest client", ours=max(clients), peer=name, theirs=client, most=0.3),
        ]
    show("round: CPU s; lost before masking + before unmasking; all sums were checked", lines)
    print(
        "Flower's client is the median one. Scaled: one client in full, and the server's work for one survivor and one "
        f"lost client, times their numbers; for 10 clients its server took {', '.join(notes)}."
    )


def update_of(client: int, length: int = MILLION) -> NDArray[np.float32]:
    return np.random.default_rng(client).standard_normal(length, dtype=np.float32)


def sealing(size: Size) -> None:
    lines = []
    identity, key = identity_of("sender"), SealingKey(bytes(32))
    for length in size.lengths:
        content = {"arrays": Arrays(items={"update": np.ones(length, dtype=np.float32)})}
        data = encode(content)
        body, alone = Body.encrypt(data), AESGCM(os.urandom(32))
        parts = {"header": cohort.HEADER, "identity": identity, "recipient": key.public, "own": b""}
        sealed, ciphertext = seal(body=body, **parts), alone.encrypt(bytes(12), data, None)
        expected = {"header": cohort.HEADER, "key": key, "sender": identity.public}
        check_opened(open_sealed(sealed, body.ciphertext, **expected), data)
        spent = fastest(
            {
                "seal": lambda data=data, parts=parts: seal(body=Body.encrypt(data), **parts),
                "encrypt": lambda data=data, alone=alone: alone.encrypt(bytes(12), data, None),
                "open": partial(open_sealed, sealed, body.ciphertext, **expected),
                "decrypt": partial(alone.decrypt, bytes(12), ciphertext, None),
                "hash": partial(sha256, data),
                "encode": partial(encode, content),
                "decode": partial(decode, data),
            },
            5 * size.repeat,
        )
        named = f"{FLOAT32 * length // MILLION} MB"
        for ours, theirs in (("seal", "encrypt"), ("open", "decrypt")):
            what, both = f"{named}: {ours}", spent[theirs] + spent["hash"]
            lines.append(Line(what=what, ours=spent[ours], peer=GCM, theirs=spent[theirs], ratio=2.0))
            lines.append(Line(what=what, ours=spent[ours], peer="the same and SHA-256", theirs=both))
        for ours, theirs in (("encode", "encrypt"), ("decode", "decrypt")):
            lines.append(Line(what=f"{named}: {ours}", ours=spent[ours], peer=GCM, theirs=spent[theirs]))
        for count in size.recipients:
            once = fastest(
                {"ours": partial(to_many, data, count, parts), "passes": partial(passes, data, count, parts)}, 1
            )
            what = f"{named}: to {count} recipients"
            lines.append(Line(what=what, ours=once["ours"], peer="a pass for each", theirs=once["passes"]))
    show("sealing: CPU ms", lines)


def check_opened(opened: tuple[bytes, bytes], data: bytes) -> None:
    """Require that what was encoded and sealed is what was opened and decoded."""
    require(opened[1] == data, "what was opened is not what was sealed")
    require(encode(decode(opened[1])) == data, "what was decoded is not what was encoded")


def to_many(data: bytes, count: int, parts: Mapping[str, Any]) -> None:
    body = Body.encrypt(data)
    for _ in range(count):
        seal(body=body, **parts)


def passes(data: bytes, count: int, parts: Mapping[str, Any]) -> None:
    for _ in range(count):
        seal(body=Body.encrypt(data), **parts)


def wire(size: Size) -> None:
    lines = []
    for members in size.cohorts:
        lost = members // 10
        ours = cohort.run(members, update_of, lost=lost).sent / 1e6
        theirs, _ = peer.one_client(members, default_threshold(members - 1), update_of(0), lost=lost)
        what = f"{members} clients, {lost} lost"
        plain = FLOAT32 * MILLION / 1e6
        lines += [
            Line(what=what, ours=ours, peer="update in float32", theirs=plain, ratio=1.05),
            Line(what=what, ours=ours, peer=FLOWER, theirs=theirs.sent / 1e6),
        ]
    show("wire: MB that a client sends in a round of 1M parameters, all of it", lines)


def memory(size: Size) -> None:
    length = size.lengths[-1]
    vector, update = FLOAT32 * length / 1e6, update_of(0, length)
    ours, theirs = Meter(), Meter()
    federation = Federation(3)
    parameters = federation.parameters(length)
    client = federation.client(federation.numbers[0])
    client.begin(federation.round(parameters).request)
    words = ours.metered(quantize, update, parameters=parameters, random=np.random.default_rng(0))
    _ = ours.metered(client.mask, words)
    peers = peer.Peers(3, 2)
    shares = peers.made_up_shares(0)
    peers.shares(0)
    plain = ndarrays_to_parameters([update])
    _ = theirs.metered(peers.mask, 0, plain, shares)
    work = cohort.run(20, partial(update_of, length=length), traced=True)
    tracemalloc.stop()
    what, word = f"{length // MILLION}M parameters", "vector of 32-bit words"
    show(
        "memory: MB at the peak, besides the update itself",
        [
            Line(what=f"{what}: client quantizes and masks", ours=ours.peak / 1e6, peer=word, theirs=vector),
            Line(what=f"{what}: the same", ours=ours.peak / 1e6, peer=FLOWER, theirs=theirs.peak / 1e6),
            Line(what=f"{what}: server, 20 clients", ours=work.peak / 1e6, peer=word, theirs=vector),
        ],
    )


CASES = {"masks": masks, "round": rounds, "sealing": sealing, "wire": wire, "memory": memory}


if __name__ == "__main__":
    main()
