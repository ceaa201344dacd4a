"""Sealed messages: what a server and its clients send each other is for the two of them alone."""

from fedtrain.messaging.codec import LARGEST, decode, encode, encoded_parts
from fedtrain.messaging.content import Arrays, Record, Value, Values
from fedtrain.messaging.offer import PROTOCOL, SessionEnd, SessionOffer
from fedtrain.messaging.sealed import Body, Ciphertext, Header, open_sealed, seal
from fedtrain.messaging.session import NodeSessions

__all__ = [
    "LARGEST",
    "PROTOCOL",
    "Arrays",
    "Body",
    "Ciphertext",
    "Header",
    "NodeSessions",
    "Record",
    "SessionEnd",
    "SessionOffer",
    "Value",
    "Values",
    "decode",
    "encode",
    "encoded_parts",
    "open_sealed",
    "seal",
]
