# SPDX-License-Identifier: Apache-2.0
"""The noise in PyTorch: Philox 4x32-10 words and their normal deviates, the same bits as `reference/noise.py`."""

import torch
from torch import Tensor

# Polynomials in powers of (mantissa - 1.5) and (level - 2.5), ascending; derived in reference/noise_fit.py.
LOG2 = (
    0.584962785243988,
    0.9617959856987,
    -0.32063233852386475,
    0.14252637326717377,
    -0.07058967649936676,
    0.03746293857693672,
    -0.025123203173279762,
    0.014778721146285534,
)
NORMAL_QUANTILE = (
    2.0574676990509033,
    1.1211278438568115,
    0.1580686867237091,
    0.01924712397158146,
    0.001744984881952405,
    0.00011625913612078875,
    6.42859231447801e-06,
    3.6190027685734094e-07,
)

# Philox calls handled at once: four int64 arrays of this length still fit a core's second-level cache.
_CALLS = 1 << 16
_LOW = 0xFFFFFFFF


def deviates(
    samples: int,
    planes: int,
    rows: int,
    columns: int,
    base_seed: int | None,
    seeds: Tensor | None,
    stream: int,
    device: torch.device,
) -> Tensor:
    """float32 [samples, planes, rows, columns]; sample b has the seed `base_seed + b`, or `seeds[b]`."""
    index = torch.arange(samples * planes, device=device)
    sample = index // planes if planes else index
    seed = seeds[sample] if seeds is not None else sample + (base_seed or 0)
    return deviates_of_planes(seed, index - sample * planes, rows, columns, stream).view(samples, planes, rows, columns)


def deviates_of_planes(seed: Tensor, plane: Tensor, rows: int, columns: int, stream: int) -> Tensor:
    """float32 [P, rows, columns] for planes chosen at will: int64 `seed` [P] and `plane` [P] within its sample."""
    noise = torch.empty((len(plane), rows, columns), dtype=torch.float32, device=plane.device)
    if noise.numel() == 0:
        return noise
    column = torch.arange(columns, device=plane.device)
    quads = -(-rows // 4)
    quads_at_once = min(quads, max(1, _CALLS // columns))
    planes_at_once = max(1, _CALLS // (quads_at_once * columns))
    for first in range(0, len(plane), planes_at_once):
        part = slice(first, first + planes_at_once)
        for low in range(0, quads, quads_at_once):
            quad = torch.arange(low, min(low + quads_at_once, quads), device=plane.device)[:, None]
            words = _words(column, quad, plane[part, None, None], stream, seed[part, None, None])
            block = noise[part, 4 * low : 4 * (low + quads_at_once)]
            block.copy_(_normal(words)[:, : block.shape[1]])
    return noise


def _words(column: Tensor, quad: Tensor, plane: Tensor, stream: int, seed: Tensor) -> Tensor:
    """Philox words of counter (column, quad, plane, stream): int32 [planes, 4 * quads, columns].

    The arguments broadcast, so the first rounds, where the counter's parts have not met yet, cost next to nothing. A
    product of 32-bit numbers wraps in int64, which loses nothing: its high half is cut out by shift and mask.
    """
    c0, c1, c2, c3 = column, quad, plane, stream
    k0, k1 = seed & _LOW, seed >> 32
    for _ in range(10):
        a = c0 * 0xD2511F53
        b = c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((b >> 32) ^ c1 ^ k0) & _LOW, b, ((a >> 32) ^ c3 ^ k1) & _LOW, a
        k0 = (k0 + 0x9E3779B9) & _LOW
        k1 = (k1 + 0xBB67AE85) & _LOW
    words = torch.empty((len(plane), len(quad), 4, len(column)), dtype=torch.int32, device=column.device)
    for i, word in enumerate((c0, c1, c2, c3)):
        words[:, :, i] = word
    return words.flatten(1, 2)


def _normal(words: Tensor) -> Tensor:
    """The float32 normal deviate of each int32 word, on the grid 2^-17."""
    x = (words & 0x7FFFFFFF).to(torch.float32).add_(0.5)
    level = _log2(_log2(x).neg_().add_(32.0))
    x = _polynomial(NORMAL_QUANTILE, level.sub_(2.5))
    x.view(torch.int32).bitwise_xor_(words & -0x80000000)
    # Between 64 and 128 the grid of float32 is 2^-17: adding 96 rounds to it, and a zero comes back as +0.
    return x.add_(96.0).sub_(96.0)


def _log2(x: Tensor) -> Tensor:
    bits = x.view(torch.int32)
    # 2^23 + k has the bits 0x4B000000 + k: an integer k becomes a float without a conversion.
    exponent = (bits >> 23).bitwise_or_(0x4B000000).view(torch.float32).sub_(2.0**23 + 127)
    u = (bits & 0x7FFFFF).bitwise_or_(0x3F800000).view(torch.float32).sub_(1.5)
    return exponent.add_(_polynomial(LOG2, u))


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        value.add_(coefficient).mul_(x)
    return value.add_(coefficients[0])
