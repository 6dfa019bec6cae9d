// SPDX-License-Identifier: Apache-2.0
// One level of Haar in both axes on 2x2 blocks, reference/wavelets.py: sums in float64, rows first, times 1/2.
#pragma once

#include "isa.hpp"
#include "job.hpp"

namespace sk {

// From planes to bands [[LL, LH], [HL, HH]], or back; both sides even.
struct Haar {
    Planes out, x;
    bool inverse = false;
};

void haar(const Haar& job, const Isa& isa, int threads);

}  // namespace sk
