# SPDX-License-Identifier: Apache-2.0
"""What pyramids and noised levels refuse, and in which words."""

import pytest
import torch

from spectral_kernels import laplacian_pyramid, laplacian_reconstruct, layouts, noise_levels

X = torch.zeros(1, 2, 8, 12)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: laplacian_pyramid(X, 6), ValueError, r"\(8, 12\) has 1 to 5 levels.*levels=6"),
        (lambda: laplacian_pyramid(X, 0), ValueError, "levels=0"),
        (lambda: laplacian_pyramid(X, 2.0), TypeError, "number or the sizes"),
        (lambda: laplacian_pyramid(X, True), TypeError, "number or the sizes"),
        (lambda: laplacian_pyramid(X, 2, "nearest"), ValueError, "area, bilinear, dct.*'nearest'"),
        (lambda: laplacian_pyramid(X, 2, basis="fft"), ValueError, "basis.*'fft'"),
        (lambda: laplacian_pyramid(X, 2, "bilinear", basis="dct"), ValueError, "resample or basis"),
        (lambda: laplacian_pyramid(X, [(4, 6), (8, 12)], basis="dct"), ValueError, "levels must be a number"),
        (lambda: laplacian_pyramid(X[..., :7], 2, basis="dct"), ValueError, "must be even"),
        (lambda: laplacian_pyramid(X, [(4, 6), (8, 10)]), ValueError, "last size.*x"),
        (lambda: laplacian_pyramid(X, [(8, 12), (4, 6), (8, 12)]), ValueError, "grow"),
        (lambda: laplacian_pyramid(X, [(8, 12), (8, 12)]), ValueError, "grow"),
        (lambda: laplacian_pyramid(X, [(4, 7), (8, 12)]), ValueError, "blocks of 2.*12 into 6, not 7"),
        (lambda: laplacian_pyramid(X, [(4.0, 6), (8, 12)]), TypeError, "pairs of integers"),
        (lambda: laplacian_pyramid(X.long(), 2), TypeError, "float32"),
        (lambda: laplacian_pyramid(X.numpy(), 2), TypeError, "torch.Tensor"),
        (lambda: laplacian_reconstruct([]), TypeError, "at least one level"),
        (lambda: laplacian_reconstruct(X), TypeError, "list"),
        (lambda: laplacian_reconstruct([X, X]), ValueError, "do not belong together"),
        (lambda: laplacian_reconstruct([X[:, :1, :4, :6], X]), ValueError, "do not belong together"),
        (lambda: laplacian_reconstruct([X[..., :3, :5], X]), ValueError, "blocks of 3"),
        (lambda: laplacian_reconstruct([X[..., :4, :6].double(), X]), ValueError, "one dtype"),
        (lambda: laplacian_reconstruct([X[..., :4, :6], X], basis="dct"), ValueError, r"must be \(1, 6, 4, 6\)"),
        (lambda: noise_levels([X, X], [[0.5]], 1), ValueError, r"\(1, 2\), got \(1, 1\)"),
        (lambda: noise_levels([X], [[1.5]], 1), ValueError, r"\[0, 1\], got 1.5"),
        (lambda: noise_levels([X], [[float("nan")]], 1), ValueError, r"\[0, 1\]"),
        (
            lambda: noise_levels([X], torch.ones(1, 1, requires_grad=True), 1),
            ValueError,
            r"no gradient; pass times.det",
        ),
        (lambda: noise_levels([X], None, 1), TypeError, "times must be a tensor or rows of one number.*got None"),
        (
            lambda: noise_levels([X, X], [[0.5], [0.5, 0.5]], 1),
            TypeError,
            r"times must be .*got \[\[0.5\], \[0.5, 0.5\]\]",
        ),
        (lambda: noise_levels([X], [[0.5]], 1, mask="all"), TypeError, "mask must be a tensor or rows.*got 'all'"),
        (lambda: noise_levels([X, None], [[0.5, 0.5]], 1), TypeError, r"levels\[1\] must be a torch.Tensor, got None"),
        (lambda: noise_levels([X], [[0.5]], 1, mask=torch.ones(1, 1)), ValueError, "mask must be bool"),
        (lambda: noise_levels([X, X.expand(2, -1, -1, -1)], [[0.5, 0.5]], 1), ValueError, "one batch"),
        (lambda: noise_levels([X], [[0.5]], 1, layouts=[layouts.Tokens(4, 4)]), ValueError, "of that size"),
        (lambda: noise_levels([X], [[0.5]], 1, layouts=[]), ValueError, "one layout per level"),
        (lambda: noise_levels(X, [[0.5]], 1), TypeError, "list"),
        (lambda: noise_levels([X], [[0.5]], -1), ValueError, "seed"),
    ],
)
def test_what_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
