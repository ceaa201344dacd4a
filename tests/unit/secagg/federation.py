"""Clients and servers of secure aggregation with keys from a seed, for tests."""

from dataclasses import replace
from hashlib import shake_256
from itertools import count

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedtrain.crypto import Identity
from fedtrain.secagg import Client, ClientState, Parameters, ServerRound
from fedtrain.trust import Roster, SessionKeys, SessionSecrets, client_name

RUN = "0123456789abcdef"
SESSION = "00112233445566778899aabbccddeeff"
WORK = "5a" * 32


def stream(seed):
    """Return a source of bytes that are always the same."""
    numbers = count()
    return lambda size: shake_256(f"{seed} {next(numbers)}".encode()).digest(size)


def identity_of(seed):
    return Identity(Ed25519PrivateKey.from_private_bytes(stream(f"identity {seed}")(32)))


class Federation:
    """Clients that announced their keys in one session. Their numbers have gaps."""

    def __init__(self, members, seed="test", numbers=None):
        self.numbers = tuple(numbers or range(0, 3 * members, 3))
        self.identities = {number: identity_of(f"{seed} {number}") for number in self.numbers}
        self.roster = Roster(
            server=identity_of(f"{seed} server").public,
            clients={number: identity.public for number, identity in self.identities.items()},
        )
        self.secrets = {number: SessionSecrets(stream(f"{seed} {number}")(32)) for number in self.numbers}
        self.announcements = {number: self.announce(number) for number in self.numbers}

    def announce(self, number, identity=None, secrets=None, **changes):
        keys = SessionKeys.of(
            secrets or self.secrets[number],
            run=RUN,
            session=SESSION,
            roster=self.roster.digest,
            party=client_name(number),
        )
        return replace(keys, **changes).sign(identity or self.identities[number])

    def client(self, number, *, state=None, minimum=2, **others):
        return Client(
            client=number,
            secrets=self.secrets[number],
            announcement=self.announcements[number],
            roster=self.roster,
            minimum=minimum,
            state=state or ClientState(),
            **others,
        )

    def clients(self, **others):
        return {number: self.client(number, **others) for number in self.numbers}

    def parameters(self, length=5, bits=16, **others):
        return Parameters.plan(members=len(self.numbers), length=length, bits=bits, bound=1.0, **others)

    def round(self, parameters=None, number=1, **others):
        arguments = {
            "run": RUN,
            "session": SESSION,
            "number": number,
            "parameters": parameters or self.parameters(),
            "work": WORK,
            "announcements": self.announcements,
        }
        return ServerRound(**arguments | others)


def vectors_of(parameters, numbers, seed=0):
    """Return a random vector for each client, with the largest coordinates among them."""
    random = np.random.default_rng(seed)
    largest = parameters.largest
    vectors = {}
    for number in numbers:
        vector = random.integers(-largest, largest + 1, parameters.length).astype(np.int32)
        vector[0] = random.choice([-largest, largest])
        vectors[number] = vector.view(np.uint32)
    return vectors


def plain_sum(vectors):
    return np.sum(list(vectors), axis=0, dtype=np.int64).astype(np.int32).view(np.uint32)


def aggregate(server, clients, vectors, *, lost=(), silent=(), change=lambda number, shares: shares):
    """Run a round in which some clients are lost in the first exchange, and some in the second."""
    for number, client in clients.items():
        if number not in lost:
            client.begin(server.request)
            server.receive(number, client.mask(vectors[number].copy()))
    for number, request in server.close().items():
        if number not in silent:
            server.receive_shares(number, change(number, clients[number].unmask(request)))
    return server.finish()
