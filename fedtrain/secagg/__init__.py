"""Secure aggregation: a server learns the sum of its clients' vectors and nothing else of them."""

from fedtrain.secagg.client import Client
from fedtrain.secagg.messages import MaskedVector, MaskRequest, UnmaskedShares, UnmaskRequest
from fedtrain.secagg.parameters import Parameters, check_noise
from fedtrain.secagg.quantization import dequantize, quantize
from fedtrain.secagg.server import Aggregate, ServerRound
from fedtrain.secagg.state import ClientState, Pending

__all__ = [
    "Aggregate",
    "Client",
    "ClientState",
    "MaskRequest",
    "MaskedVector",
    "Parameters",
    "Pending",
    "ServerRound",
    "UnmaskRequest",
    "UnmaskedShares",
    "check_noise",
    "dequantize",
    "quantize",
]
