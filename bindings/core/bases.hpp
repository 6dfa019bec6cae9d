// SPDX-License-Identifier: Apache-2.0
// The tables of the library, with the bits of reference/bases.py.
#pragma once

#include <cstdint>
#include <vector>

#include "kind.hpp"

namespace sk {

enum class Basis { dct, fft, haar };

struct Values {
    int64_t m = 0, K = 0;
    std::vector<double> data;  // row by row
};

// analysis T_H, synthesis T_H^T, up T_H[:h]^T T_h, down its transpose, lowpass T_H[:h]^T T_H[:h]; throws std::bad_alloc.
// `fine` is `coarse` times a power of two in the Haar basis, whose coarse state is its lowpass band.
Values table_values(Basis basis, Kind kind, int64_t fine, int64_t coarse);

}  // namespace sk
