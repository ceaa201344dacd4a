"""What the operator hands out: the kit of a node, and the server's folder, which gets other keys from the operator.

A kit is everything that a site needs to take part, and nothing that is secret.
"""

from pathlib import Path

from fedtrain.crypto import Identity, SignedEnvelope
from fedtrain.crypto.secrets import read_or_create_secret
from fedtrain.errors import KeyFileError, SiteError, StorageError
from fedtrain.files import sync_folder, write_atomic
from fedtrain.machines import Federation, NodeFolder, ServerFolder, write_membership
from fedtrain.provision.certificates import Pair, hosts_of
from fedtrain.trust import Membership

SITE_FILE = """\
# What this site allows. The server can change nothing here: it is read from this file, before anything is trained.

[data]
# Where the records are: "parquet", "csv", "npz", "images", "sounds", or "module:attribute", a function of your own that
# returns features and labels. They are read on this machine, and stay here. Try it: fedtrain client data .
source = "parquet"
# A file, a folder or a glob pattern, relative to this folder.
path = "data/train.parquet"
# A table by a schema file, which all sites have: it names columns and classes, in the place of the fields below.
# schema_file = "schema.toml"
# image_column = "image"
# Records are sounds, of so many samples a second, and are cut or padded to so many seconds.
# sample_rate = 8000
# seconds = 1.0
# audio_column = "audio"
# Records are texts, of which so many bytes are kept.
# text_column = "text"
# max_bytes = 2048
# What is predicted of a record: its "class", a "number", "labels", or "text": each token of a text.
# target = "class"
# label_column = "label"
# feature_columns = "age, weight"
# The classes of the federation's experiments, in the order of their numbers. An experiment with others is refused.
# classes = "healthy, ill"

# [site]
# What reports may call this site. Without a name they have its number alone. Whoever gets a report reads it.
# name = "St. Mary's Hospital"

[budget]
# The privacy budget of each data set, over all runs there will ever be. Delta: below 1 / number of records.
epsilon = 8.0
delta = 1e-5

[policy]
# The least noise multiplier that is trained with.
minimum_noise = 0.5
# "record": noise is added here, to every step. "client" trusts the server with the noise. "none" guarantees nothing.
modes = ["record"]
# Who may add noise: "local" is this site alone. "distributed": the sites of a cohort share it, and the server gets sums
# alone; that protects as long as no more of them collude with the server than an experiment allows for. Add it if you
# agree to that, and say in colluders how many an experiment has to allow for at least.
trust = ["local"]
colluders = 0
# "secure" comes from the operating system. "seeded" is for simulations.
noise = ["secure"]
# What may be trained: a built-in task, or a task of an app that you have read, as "module:attribute". Add "statistics"
# if noisy means, variances and histograms of columns may be published too; the budget pays for them as for training.
tasks = ["vision", "text", "language", "tabular", "speech", "regression", "multilabel"]

[transport]
# Answer only messages that are encrypted to this node, and send only updates that the server sees in a sum.
sealed = true
secagg = true
# The least number of clients whose sum this site's update is part of.
minimum_cohort = 3
"""
# Nothing is the server's identity before a membership names it.
_NEXT = "identity.new.pem"


def write_kit(
    path: Path,
    name: str,
    client: int,
    federation: Federation,
    ca: bytes,
    membership: SignedEnvelope,
    directions: SignedEnvelope | None = None,
) -> None:
    """Write a kit into a folder that is made for it.

    Args:
        path: the folder.
        name: the node's name.
        client: its number.
        federation: what it pins.
        ca: the certificates of the CA, PEM.
        membership: who belongs to the federation so far.
        directions: how its server is reached, if that was changed.

    Raises:
        StorageError: it cannot be written.
        OSError: the folder cannot be made.
    """
    path.mkdir(parents=True)
    node = NodeFolder(path=path, name=name, client=client, federation=federation)
    write_atomic(node.ca, ca)
    write_membership(node.membership, membership)
    if directions is not None:
        write_atomic(node.directions, directions.line())
    write_atomic(node.site, SITE_FILE.encode())
    # Last: a folder without it is no kit.
    node.write()


def make_folder(server: ServerFolder, ca: bytes) -> None:
    """Make the folder with what every machine pins, or add that to what is there.

    Args:
        server: the folder.
        ca: certificates of the CA, PEM.

    Raises:
        StorageError: it cannot be made or written.
    """
    try:
        server.path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {server.path}: {error.strerror or error}") from error
    write_atomic(server.ca, ca)
    server.federation.write(server.path)


def former_hosts(server: ServerFolder, *, lost: bool) -> tuple[str, ...]:
    """Return what the server's certificate has been valid for.

    Args:
        server: the folder, which may have been carried away.
        lost: whether another server takes its place, so that no certificate need be there.

    Raises:
        KeyFileError: the certificate is garbled.
        SiteError: there is none, or it cannot be read.
    """
    try:
        return hosts_of(server.certificate.read_bytes())
    except FileNotFoundError as error:
        if lost:
            return ()
        raise SiteError(
            f"there is no {server.certificate}, which says what names the server has: if the folder was moved to the "
            "server's machine, bring server.crt back first; if that machine is lost, make another server with "
            "--identity, and --name for each further name"
        ) from error
    except OSError as error:
        raise SiteError(f"cannot read {server.certificate}: {error.strerror or error}") from error
    except KeyFileError as error:
        raise KeyFileError(
            f"{server.certificate}: {error}; bring the one on the server's machine back. If there is none, delete this "
            "one, and make another server with --identity, and --name for each further name"
        ) from error


def write_certificate(server: ServerFolder, pair: Pair) -> None:
    """Put a certificate and its key in place, durably.

    Raises:
        KeyFileError, StorageError: one of them cannot be written.
    """
    # In one file both would be replaced at once; nginx takes two, and refuses those that do not belong together.
    temporary = server.certificate_key.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    read_or_create_secret(temporary, lambda: pair.key)
    temporary.replace(server.certificate_key)
    write_atomic(server.certificate, pair.certificate)


def next_identity(server: ServerFolder) -> Identity:
    """Return the identity that is to be the server's when a membership names it; it is made where there is none.

    Raises:
        KeyFileError, StorageError: it cannot be read or written.
    """
    return Identity.load_or_create(server.path / _NEXT)


def take_over(server: ServerFolder, membership: Membership) -> None:
    """Put the server's next identity in place, if there is one that the membership names."""
    new = server.path / _NEXT
    if new.exists() and Identity.load(new).public == membership.roster.server:
        new.replace(server.identity)
        sync_folder(server.path)
