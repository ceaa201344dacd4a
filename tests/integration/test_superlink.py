"""What can be read of a run on a SuperLink: in its database, on the wire and in the logs."""

import io
import json
import re
from base64 import b64encode, urlsafe_b64encode
from itertools import product

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedtrain.crypto import Identity
from fedtrain.trust import SessionSecrets
from tests.integration.superlink import Federation, Recording, everything, readable, windows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CLIENTS, ROUNDS = 3, 2

SETTINGS = {
    "seed": 1,
    "federation.clients": CLIENTS,
    "federation.cohort": CLIENTS,
    "federation.rounds": ROUNDS,
    "task.model": "linear",
    "training.batch_size": 160,
    "training.local_steps": 2,
}
OPEN = {"transport.sealed": False, "transport.secagg.enabled": False}
SEALED = {"transport.sealed": True, "transport.secagg.enabled": False}
MASKED = {"transport.sealed": False, "transport.secagg.enabled": True, "federation.rounds": 1}
PRIVATE = {
    "privacy.mode": "record",
    "privacy.epsilon": 8.0,
    "privacy.delta": 1e-4,
    "privacy.sampling_rate": 0.3,
}
SHARED = {**PRIVATE, "privacy.trust": "distributed", "privacy.colluders": 0, "training.local_steps": 1}

# How an array begins that Flower sends, and one of numpy's in it.
ARRAY = rb"ArrayChunk  (\d+)\0"
NUMPY = b"\x93NUMPY"

# One after another on the same SuperLink, whose disk keeps what earlier ones left: those come first of which nothing is
# to be read, and last the one of which everything is.
RUNS = {
    "sealed": SEALED,
    "private": PRIVATE,  # says nothing of its transport
    "shared": SHARED,  # likewise
    "masked": MASKED,
    "plain": OPEN,
}


@pytest.fixture(scope="module")
def recordings(cli, once):
    def make(folder):
        with Federation(folder / "federation", nodes=CLIENTS, environment=cli.environment) as federation:
            for name, settings in RUNS.items():
                federation.record(folder / name, {**SETTINGS, **settings})

    folder = once("superlink", make)
    return {name: Recording(folder / name) for name in RUNS}


def recording(name):
    @pytest.fixture(scope="module")
    def run(recordings):
        return recordings[name]

    return run


sealed, private, shared, masked, plain = map(recording, RUNS)


def final(run):
    return load_file(run.out / "model-final.safetensors")


def checkpoint(run, number):
    """Return what came of a round: its model, and the state of the strategy."""
    arrays = load_file(run.out / "checkpoints" / f"round-{number:06d}.safetensors")
    return {name: array for name, array in arrays.items() if not name.startswith("confusion/")}


def payloads(data):
    """Return the different arrays of Flower's messages in some bytes; those that are not numpy's as bytes."""
    bodies = {data[head.end() : head.end() + int(head[1])] for head in re.finditer(ARRAY, data)}
    return [
        np.load(io.BytesIO(body), allow_pickle=False) if body.startswith(NUMPY) else np.frombuffer(body, np.uint8)
        for body in sorted(bodies)
    ]


def weights(run):
    """Return the windows of the models that came of all rounds."""
    rounds = range(1, run.report["rounds"] + 1)
    return windows(array for number in rounds for array in checkpoint(run, number).values())


@pytest.fixture(scope="module")
def updates(plain):
    """Return what clients sent, and the server did not."""
    return windows(payloads(plain.uplink)) - windows(payloads(plain.downlink))


def test_without_sealing_every_model_and_update_can_be_read(plain, updates):
    entries = plain.report["round_log"]
    assert [(entry["sealed"], entry["secagg"]) for entry in entries] == [(False, None)] * ROUNDS
    sent, answered = payloads(plain.downlink), payloads(plain.uplink)
    assert len(sent) == 2 * ROUNDS
    assert len(answered) == 2 * ROUNDS * CLIENTS
    assert len(updates) > 500
    assert readable(updates, plain.uplink) == updates
    first = windows(checkpoint(plain, 1).values())
    assert readable(first, plain.downlink) == first
    # A database lays what is large out over pages, and some windows across their edges.
    for needles in (updates, first):
        assert len(readable(needles, plain.database)) > 0.9 * len(needles)


def test_with_sealing_no_model_or_update_can_be_read(plain, sealed):
    entries = sealed.report["round_log"]
    assert [(entry["sealed"], entry["secagg"]) for entry in entries] == [(True, None)] * ROUNDS
    # The clients sent what they sent before: all else of the run is the same, and so is what came of it.
    for number in range(1, ROUNDS + 1):
        mine, theirs = checkpoint(sealed, number), checkpoint(plain, number)
        assert {name: array.tobytes() for name, array in mine.items()} == {
            name: array.tobytes() for name, array in theirs.items()
        }
    needles = windows(payloads(plain.uplink) + payloads(plain.downlink)) | weights(sealed)
    assert not readable(needles, *everything(sealed))


def test_masks_alone_hide_updates_and_not_models(plain, masked, updates):
    (entry,) = masked.report["round_log"]
    assert entry["sealed"] is False
    assert entry["secagg"] is not None
    assert near(checkpoint(masked, 1), checkpoint(plain, 1))
    assert not near(checkpoint(masked, 1), checkpoint(plain, 2))
    sent, vectors = payloads(masked.downlink), payloads(masked.uplink)
    assert readable(windows(sent), masked.database)
    assert len(vectors) == CLIENTS
    parameters = sum(array.size for array in sent)
    for vector in vectors:
        assert len(readable(windows([vector]), masked.database)) > 0.9 * len(windows([vector]))
        # Of a small number the highest byte is all zeros or all ones; of a masked one it is any.
        assert len(set(vector.reshape(parameters, -1)[:, -1].tolist())) > 200
    trained = payloads(plain.uplink)
    changes = [
        np.subtract(after, before, dtype=kind)
        for after, before, kind in product(trained, sent, (np.float32, np.float64))
        if after.shape == before.shape
    ]
    assert not readable(updates | windows(changes), *everything(masked))


def test_a_private_run_is_sealed_and_summed_unless_told_otherwise(cli, private, tmp_path):
    entries = private.report["round_log"]
    assert len(entries) == ROUNDS
    for entry in entries:
        assert entry["sealed"] is True
        assert entry["secagg"]["lost_masking"] == entry["secagg"]["lost_unmasking"] == 0
        assert sorted(entry["completed"]) == list(range(CLIENTS))
    assert not readable(weights(private), *everything(private))
    local = {**SETTINGS, **PRIVATE, **OPEN}
    arguments = [word for key, value in local.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    (tmp_path / "experiment.toml").touch()
    unprotected = cli.run("--config", tmp_path / "experiment.toml", *arguments, out=tmp_path / "local")
    assert unprotected.status == 0, unprotected.stderr
    assert near(final(private), final(unprotected))
    audit = cli.call("audit", private.out / "report.json", "--roster", private.out / "roster.json")
    assert audit.status == 4, audit.stdout  # a simulation, of which no check fails


def test_noise_that_three_sites_share_is_in_a_sum_that_is_exact(cli, shared, tmp_path):
    """Two of three shares are counted; and the model is, bit for bit, that of the same whole numbers without masks."""
    for entry in shared.report["round_log"]:
        assert entry["sealed"] is True
        assert (entry["secagg"]["threshold"], entry["secagg"]["lost_masking"], entry["secagg"]["bits"]) == (2, 0, 22)
        assert sorted(entry["completed"]) == list(range(CLIENTS))
    numbers = shared.report["privacy"]["mechanism"]["shares"]
    assert (numbers["members"], numbers["threshold"], numbers["colluders"], numbers["honest"]) == (CLIENTS, 2, 0, 2)
    assert not readable(weights(shared), *everything(shared))
    audit = cli.call("audit", shared.out / "report.json", "--roster", shared.out / "roster.json")
    assert "fails" not in audit.stdout, audit.stdout
    local = {**SETTINGS, **SHARED, **OPEN}
    arguments = [word for key, value in local.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    (tmp_path / "experiment.toml").touch()
    unmasked = cli.run("--config", tmp_path / "experiment.toml", *arguments, out=tmp_path / "local")
    assert unmasked.status == 0, unmasked.stderr
    mine, theirs = final(shared), final(unmasked)
    assert {name: value.tobytes() for name, value in mine.items()} == {
        name: value.tobytes() for name, value in theirs.items()
    }


def near(mine, theirs):
    """Say whether models differ by no more than roundings of updates, to 1/32767 at most, in two rounds or so."""
    assert mine.keys() == theirs.keys()
    return all(np.allclose(mine[name], theirs[name], atol=2e-4) for name in mine)


@pytest.mark.parametrize("name", ["sealed", "masked", "private"])
def test_no_secret_is_in_the_database_on_the_wire_or_in_a_log(name, request):
    run = request.getfixturevalue(name)
    folders = sorted(run.sites.glob("client-*"))
    assert len(folders) == CLIENTS
    identities = [*(folder / "identity.pem" for folder in folders), run.out / "keys" / "server.pem"]
    secrets = [Identity.load(path)._private.private_bytes_raw() for path in identities]
    for secret in run.secrets:
        keys = SessionSecrets(secret)
        secrets += [secret, *(key._private.private_bytes_raw() for key in (keys.masking, keys.sharing))]
    assert len(set(secrets)) == 1 + 4 * CLIENTS
    assert not list(run.sites.glob("*/sessions/*/*/secret"))
    for secret in secrets:
        assert not readable(spellings(secret), *everything(run))


def spellings(secret):
    """Return how a secret may be written: as it is, in hexadecimal, and in base64 after anything."""
    texts = [
        b64encode(bytes(shift) + secret)[-(-shift * 8 // 6) : (shift + len(secret)) * 8 // 6] for shift in range(3)
    ]
    hexadecimal = secret.hex().encode()
    return {secret, hexadecimal, hexadecimal.upper(), *texts, *(text.translate(URL_SAFE) for text in texts)}


URL_SAFE = bytes.maketrans(b"+/", b"-_")


@pytest.mark.parametrize(
    "written",
    [
        lambda secret: b"key " + secret,
        lambda secret: secret.hex().encode(),
        lambda secret: secret.hex().upper().encode(),
        lambda secret: b64encode(b"x" + secret),
        lambda secret: urlsafe_b64encode(b"xy" + secret + b"z"),
    ],
    ids=["bytes", "hexadecimal", "capitals", "base64", "base64-url"],
)
def test_a_secret_is_found_however_it_is_written(written):
    for number in range(20):
        secret = bytes(np.random.default_rng(number).bytes(32))
        assert readable(spellings(secret), written(secret))
        assert not readable(spellings(secret), written(secret[::-1]))
