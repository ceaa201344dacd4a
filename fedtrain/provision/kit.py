"""The kit of a node: everything that its site needs to take part, and nothing that is secret."""

from pathlib import Path

from fedtrain.crypto import SignedEnvelope
from fedtrain.files import write_atomic
from fedtrain.machines import Federation, NodeFolder, write_membership

SITE_FILE = """\
# What this site allows. The server can change nothing here: it is read from this file, before anything is trained.

[data]
# Where the records are: "parquet", "npz", "images", or "module:attribute", a function of your own that returns
# features and labels. They are read on this machine, and stay here. Try it: fedtrain client data .
source = "parquet"
# A file, a folder or a glob pattern, relative to this folder.
path = "data/train.parquet"
# image_column = "image"
# label_column = "label"
# feature_columns = "age, weight"
# The classes of the federation's experiments, in the order of their numbers. An experiment with others is refused.
# classes = "healthy, ill"

[budget]
# The privacy budget of each data set, over all runs there will ever be. Delta: below 1 / number of records.
epsilon = 8.0
delta = 1e-5

[policy]
# The least noise multiplier that is trained with.
minimum_noise = 0.5
# "record": noise is added here, to every step. "client" trusts the server with the noise. "none" promises nothing.
modes = ["record"]
# "secure" comes from the operating system. "seeded" is for simulations.
noise = ["secure"]
# What may be trained: a built-in task, or a task of an app that you have read, as "module:attribute".
tasks = ["vision", "tabular", "regression", "multilabel"]

[transport]
# Answer only messages that are encrypted to this node, and send only updates that the server sees in a sum.
sealed = true
secagg = true
# The least number of clients whose sum this site's update is part of.
minimum_cohort = 3
"""


def write_kit(
    path: Path, name: str, client: int, federation: Federation, ca: bytes, membership: SignedEnvelope
) -> None:
    """Write a kit into a folder that is made for it.

    Args:
        path: the folder.
        name: the node's name.
        client: its number.
        federation: what it pins.
        ca: the certificate of the CA, PEM.
        membership: who belongs to the federation so far.

    Raises:
        StorageError: it cannot be written.
        OSError: the folder cannot be made.
    """
    path.mkdir(parents=True)
    node = NodeFolder(path=path, name=name, client=client, federation=federation)
    write_atomic(node.ca, ca)
    write_membership(node.membership, membership)
    write_atomic(node.site, SITE_FILE.encode())
    # Last: a folder without it is no kit.
    node.write()
