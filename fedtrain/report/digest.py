"""What the server's closing record signs of a report."""

from hashlib import sha256

from fedtrain.crypto import canonical
from fedtrain.report.schema import Report


def body_digest(report: Report) -> str:
    """Return the SHA-256 of the canonical JSON (RFC 8785) of a report without its proof, in hexadecimal.

    The proof is left out because it holds the record that signs this digest.

    Raises:
        ValueError: a whole number beyond 2**53 - 1, which JSON does not hold exactly.
    """
    return sha256(canonical(report.model_dump(mode="json", exclude={"proof"}))).hexdigest()
