# SPDX-License-Identifier: Apache-2.0
"""From float32 to the dtype of the result, rounded once to nearest even."""

import triton
import triton.language as tl


@triton.jit
def round_to(x, DTYPE: tl.constexpr):
    """float32 tile -> DTYPE tile. bfloat16 is rounded by integer operations: Triton's interpreter would cut it off.

    A NaN must be the quiet 0x7FC00000, the only one the library writes.
    """
    if DTYPE == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        y = rounded.to(tl.int16).to(tl.bfloat16, bitcast=True)
    elif DTYPE == tl.float16:
        # NVIDIA converts every NaN to 0x7FFF, which is another NaN.
        y = tl.where(x != x, tl.full([1], 0x7E00, tl.int16).to(tl.float16, bitcast=True), x.to(tl.float16))
    else:
        y = x.to(DTYPE)
    return y
