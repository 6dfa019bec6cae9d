// SPDX-License-Identifier: Apache-2.0
// One level of Haar in both axes on 2x2 blocks, reference/wavelets.py: sums in float64, rows first, times 1/2.
#pragma once

#include "isa.hpp"
#include "job.hpp"
#include "kind.hpp"

namespace sk {

// y = alpha (M X + beta N E) + gamma E + 0 for the local forms M, N of one level. E is `other`, or drawn from seeds where
// N = synthesis; for N = synthesis its corner counts as zero. Bands lie as [[LL, LH], [HL, HH]].
struct Haar {
    Planes out, x, other;
    Kind kind = Kind::analysis, second = Kind::synthesis;  // second: synthesis or lowpass
    bool has_other = false, has_second = false;
    const int64_t* seeds = nullptr;  // one per sample, or null: base_seed + sample
    int64_t base_seed = 0;
    uint32_t stream = 0;
    const double* weights = nullptr;  // alpha, beta, gamma
    int64_t weight_stride = 0;        // 3 when every sample has its own

    // The coarse grid.
    int64_t rows() const { return kind == Kind::up ? x.rows : kind == Kind::down ? out.rows : x.rows / 2; }
    int64_t columns() const { return kind == Kind::up ? x.columns : kind == Kind::down ? out.columns : x.columns / 2; }
};

void haar(const Haar& job, const Isa& isa, int threads);

}  // namespace sk
