"""Ask the server of a federation for its directions, over TLS that the federation's authorities vouch for.

What it answers counts by the operator's signature alone, so that a server has nothing to gain by the answer.
"""

import http.client
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request

from fedtrain.crypto import SignedEnvelope
from fedtrain.errors import ForgeryError, RunError
from fedtrain.health.network import TIMEOUT, proxy_address, trusting
from fedtrain.machines.federation import Federation
from fedtrain.machines.folders import NodeFolder
from fedtrain.trust.directions import MOST_BYTES

_PATIENCE = 3 * TIMEOUT  # seconds for a whole answer, which might come a byte at a time

PATH = "/directions"
"""Where the gateway has them."""

# By address, who still reads an answer that was not waited for: a server that never ends it has one of them at most.
_reading: dict[str, threading.Thread] = {}


def ask_directions(federation: Federation, ca: Path) -> SignedEnvelope | None:
    """Return what the server says that the operator signed; ``None`` where it has no directions.

    Args:
        federation: says where the server is.
        ca: the certificates of the authorities that are trusted, PEM.

    Raises:
        RunError: the server is not reached, or does not answer in time.
        ForgeryError: what it answers is no signed statement. Its signature is not verified here.
        KeyFileError: the certificates cannot be read.
    """
    context, address = trusting(ca), federation.address
    if address in _reading and _reading[address].is_alive():
        raise RunError(f"{address} is not reached: it still gives the answer before, and does not end it")
    answers = list[bytes | OSError | http.client.HTTPException | None]()
    asking = threading.Thread(target=lambda: answers.append(_answer(federation, context)), daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    if asking.is_alive():
        _reading[address] = asking
    data = answers[0] if answers else TimeoutError(f"no whole answer within {_PATIENCE:g} s")
    if isinstance(data, Exception):
        reason = getattr(data, "reason", None) or data
        raise RunError(f"{address} is not reached: {reason}") from data
    if data is None:
        return None
    if len(data) > MOST_BYTES:
        raise ForgeryError(f"{address} answers with more than any directions have")
    return SignedEnvelope.from_line(data)


def _answer(federation: Federation, context: ssl.SSLContext) -> bytes | OSError | http.client.HTTPException | None:
    """Return what the server answers, ``None`` if it was reached and has no directions, or why it was not reached."""
    through = proxy_address(federation.host)
    opener = urllib.request.build_opener(
        HTTPSHandler(context=context), ProxyHandler({"https": through} if through else {}), _NoRedirects()
    )
    try:
        request = Request(f"https://{federation.address}{PATH}")
        with opener.open(request, timeout=TIMEOUT) as answer:
            data: bytes = answer.read(MOST_BYTES + 1)
            return data
    except urllib.error.HTTPError as error:
        error.close()  # it was reached: without directions, or behind a gateway of an earlier version
        return None
    except (OSError, http.client.HTTPException) as error:
        return error
    except ValueError as error:  # of a name that cannot be one
        return OSError(str(error))


def lost_advice(node: NodeFolder) -> str:
    """Return what a site does whose node was away while the server moved, or while its authority was renewed."""
    return (
        "if the operator has moved the server or renewed the CA while this node was away, ask for directions.json, and "
        f"run: fedtrain client follow {node.path} directions.json"
    )


class _NoRedirects(HTTPRedirectHandler):
    """Goes nowhere else than it was told to."""

    def redirect_request(self, *_: object) -> None:
        return None
