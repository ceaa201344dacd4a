"""Sealed messages: what a server and its clients send each other is for the two of them alone."""

from fedtrain.transport.codec import decode, encode
from fedtrain.transport.content import Arrays, Record, Value, Values
from fedtrain.transport.header import Header
from fedtrain.transport.layout import LARGEST
from fedtrain.transport.offer import PROTOCOL, SessionEnd, SessionOffer
from fedtrain.transport.sealed import Body, open_sealed, seal
from fedtrain.transport.session import NodeSessions

__all__ = [
    "LARGEST",
    "PROTOCOL",
    "Arrays",
    "Body",
    "Header",
    "NodeSessions",
    "Record",
    "SessionEnd",
    "SessionOffer",
    "Value",
    "Values",
    "decode",
    "encode",
    "open_sealed",
    "seal",
]
