# SPDX-License-Identifier: Apache-2.0
"""To float32 and from float32 to the dtype of the result, rounded once to nearest even, with one NaN."""

import triton
import triton.language as tl


@triton.jit
def round_to(x, DTYPE: tl.constexpr):
    """float32 tile -> DTYPE tile; every NaN becomes the quiet one, on which hardware and casts do not agree.

    bfloat16 is rounded by integer operations: Triton's interpreter would cut it off.
    """
    nan = x != x
    if DTYPE == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        y = tl.where(nan, 0x7FC0, bits).to(tl.int16).to(tl.bfloat16, bitcast=True)
    elif DTYPE == tl.float16:
        bits = x.to(tl.float16).to(tl.int16, bitcast=True)
        y = tl.where(nan, 0x7E00, bits).to(tl.int16).to(tl.float16, bitcast=True)
    elif DTYPE == tl.float32:
        bits = x.to(tl.int32, bitcast=True)
        y = tl.where(nan, 0x7FC00000, bits).to(tl.float32, bitcast=True)
    else:
        y = x.to(DTYPE)
    return y


@triton.jit
def widen(x):
    """Tile as float32, or float64 as it is. bfloat16 by its bits: the interpreter gets its subnormal numbers wrong."""
    if x.dtype == tl.bfloat16:
        y = (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    elif x.dtype == tl.float16:
        y = x.to(tl.float32)
    else:
        y = x
    return y
