# SPDX-License-Identifier: Apache-2.0
"""Features stored in one byte per element, and features kept in pinned host memory.

Encoding follows the shape of the OCP microscaling formats: 32 neighbours share a power of two, held in one byte, and
each element is an int8 or a float8 e4m3 on that grid. A power of two makes decoding exact, so the weighted sum decodes
on the fly and its bits stay those of `forecast` on the decoded features.
"""

import torch
from torch import Tensor

SHARED = 32  # elements per exponent

# Largest error of a decoded element, as a share of the largest magnitude among its 32 neighbours (float8: of the
# element itself too, down to 2^-14 of that magnitude).
ERROR_BOUND = {"int8": 1 / 127, "float8": 1 / 16}

# An int8 block is scaled so that its largest magnitude lies in [64, 128), a float8 block in [128, 256): e4m3 ends at
# 448.
_SHIFT = {"int8": 7, "float8": 8}
_DTYPE = {"int8": torch.int8, "float8": torch.float8_e4m3fn}
_CHUNK = 1 << 22  # float32 working memory stays at 16 MiB per temporary


def encode(feature: Tensor, encoding: str) -> tuple[Tensor, Tensor]:
    """Flat codes [F] and exponent bytes [ceil(F / 32)]: value = code * 2^(byte - 127).

        2^s = the power of two that brings the block's largest magnitude below 128 (int8) or 256 (float8)
        code = x 2^-s rounded to nearest even (int8: clamped to 127)

    A block with a NaN or an infinity becomes NaN as a whole: byte 255, codes 0. A float8 magnitude above 31/32 of
    2^128 becomes infinite.
    """
    if encoding not in _DTYPE:
        raise ValueError(f"encode: encoding must be one of {', '.join(_DTYPE)}, got {encoding!r}")
    flat = feature.detach().reshape(-1)
    codes = torch.empty(flat.numel(), dtype=_DTYPE[encoding], device=flat.device)
    exponents = torch.empty(-(-flat.numel() // SHARED), dtype=torch.uint8, device=flat.device)
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK].to(torch.float32)
        short = -part.numel() % SHARED
        blocks = torch.nn.functional.pad(part, (0, short)).view(-1, SHARED)
        top = blocks.abs().amax(1).view(torch.int32)
        finite = top < 0x7F800000
        byte = ((top >> 23) + 1 - _SHIFT[encoding]).clamp(1, 254)
        scaled = blocks * ((254 - byte) << 23).view(torch.float32)[:, None]
        scaled = torch.where(finite[:, None], scaled, 0.0)
        if encoding == "int8":
            scaled = scaled.round().clamp(-127, 127)
        codes[start : start + _CHUNK] = scaled.view(-1)[: part.numel()].to(_DTYPE[encoding])
        at = start // SHARED
        exponents[at : at + len(byte)] = torch.where(finite, byte, 255).to(torch.uint8)
    return codes, exponents


class Pinned:
    """A tensor in page-locked host memory, and the moment when its copy has arrived there.

    The copy runs on the stream that is current at construction; `wait` makes the current stream of a later reader wait
    for it. Without that a reader on another stream may see the buffer before it is written. The host allocator keeps a
    freed buffer back until copies recorded on it are done, so dropping a `Pinned` is safe at any time.
    """

    def __init__(self, tensor: Tensor):
        self.arrived = None
        if tensor.is_cuda:
            self.tensor = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
            self.tensor.copy_(tensor, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record(torch.cuda.current_stream(tensor.device))
        else:
            self.tensor = tensor

    def wait(self, device: torch.device) -> Tensor:
        """The host tensor; copies from it that follow on the device's current stream see all of it."""
        if self.arrived is not None:
            torch.cuda.current_stream(device).wait_event(self.arrived)
        return self.tensor

    def settle(self) -> Tensor:
        """The host tensor, for reading on the host: waits until it is complete."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.tensor
