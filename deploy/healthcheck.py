"""Exit with 0 if the federation's server answers, verified against the CA that the folder pins; for containers.

It needs the standard library alone, so that it is cheap enough for every half minute. `fedtrain doctor` says more.
"""

import json
import socket
import ssl
import sys
from http.client import HTTPResponse
from pathlib import Path

TIMEOUT = 5.0
OK = 200


def healthy(folder: Path) -> None:
    """Raise an error that says what is wrong, if anything is.

    Raises:
        OSError: the server is not reached, or does not show the certificate that it must, or answers with an error.
        ValueError: the folder's description of the federation cannot be read.
    """
    address = str(json.loads((folder / "federation.json").read_bytes())["address"])
    name, _, port = address.rpartition(":")
    name = name.strip("[]")
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A server asks itself, by the certificate's name: its public address may not be routed to it.
    host = name if (folder / "node.json").exists() else "127.0.0.1"
    with (
        socket.create_connection((host, int(port)), timeout=TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        with HTTPResponse(connection) as response:
            response.begin()
            if response.status != OK:
                raise OSError(f"{address} answers /health with status {response.status}")


def main() -> int:
    """Check the folder that is named, and return the exit status."""
    try:
        healthy(Path(sys.argv[1]))
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"not healthy: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
