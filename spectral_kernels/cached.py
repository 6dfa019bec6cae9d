# SPDX-License-Identifier: Apache-2.0
"""Constants on a device: made once, kept while they are used, and for good where a CUDA graph reads them."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")

# A CUDA graph holds addresses, not tensors: memory that a cache let go would be read again at every replay.
_in_graphs: dict[int, Tensor] = {}


def cached(maxsize: int) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """`lru_cache` for a function that makes a constant tensor; what is asked for while a CUDA graph is captured stays.

    The tensor must exist before the capture, as for every copy from the host: call once beforehand.
    """

    def decorate(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
        kept = lru_cache(maxsize=maxsize)(make)

        @wraps(make)
        def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            # FakeTensorMode, for one, wants a tensor made in it, which must not outlive it.
            if torch._C._len_torch_dispatch_stack() > 0:
                return make(*args, **kwargs)
            tensor = kept(*args, **kwargs)  # pyright: ignore[reportArgumentType]  hashable by contract
            if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
                _in_graphs[tensor.data_ptr()] = tensor
            return tensor

        return call

    return decorate
