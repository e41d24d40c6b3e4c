"""Tensors as safetensors bytes and back without a second copy: a snapshot is as large as the state, and that is enough.

The format is that of https://huggingface.co/docs/safetensors: the length of a
JSON header, the header with each tensor's type, shape and place, the tensors'
bytes. The library makes the whole of it in memory, twice on the way back.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_OF_NAME = {name: dtype for dtype, name in _TYPES.items()}
_LENGTH = struct.Struct("<Q")
ALIGNED = 8


def packed(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The parts of the file, one after the other; those of tensors are views of them, the largest types first."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    places: dict[str, object] = {}
    end = 0
    for name in order:
        tensor, begin = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        places[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    header = json.dumps(places, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNED)
    yield _LENGTH.pack(len(header)) + header
    for name in order:
        if tensors[name].numel():
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data


def unpacked(body: memoryview) -> dict[str, Tensor]:
    """The tensors of a whole file, which is trusted: views of its bytes, to be copied before they are changed."""
    (length,) = _LENGTH.unpack_from(body)
    places = json.loads(bytes(body[_LENGTH.size : _LENGTH.size + length]))
    rest = body[_LENGTH.size + length :]
    tensors = {}
    for name, place in places.items():
        begin, end = place["data_offsets"]
        dtype = _OF_NAME[place["dtype"]]
        if begin == end:
            tensors[name] = torch.zeros(place["shape"], dtype=dtype)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Torch warns that bytes are read-only: nobody writes into a snapshot.
            tensors[name] = torch.frombuffer(rest[begin:end], dtype=dtype).reshape(place["shape"])
    return tensors
