// SPDX-License-Identifier: Apache-2.0
// Haar on blocks of 2^levels in both axes, reference/wavelets.py: sums in float64, rows first, times 1/2 for each level.
#pragma once

#include "isa.hpp"
#include "job.hpp"
#include "kind.hpp"

namespace sk {

inline constexpr int kHaarLevels = 4;  // where tables take over
inline constexpr int kHaarRows = 32;   // rows of blocks of the finest level that are done at once

// y = alpha (M X + beta N E) + gamma E + 0 for the local forms M, N of some levels. E is `other`, or drawn from seeds where
// N = synthesis; for N = synthesis its corner counts as zero; only pixels have E. Bands lie as [[LL, LH], [HL, HH]], those
// of the next level in LL.
struct Haar {
    Planes out, x, other;
    Kind kind = Kind::analysis, second = Kind::synthesis;  // second: synthesis or lowpass
    int levels = 1;
    bool has_other = false, has_second = false;
    const int64_t* seeds = nullptr;  // one per sample, or null: base_seed + sample
    int64_t base_seed = 0;
    uint32_t stream = 0;
    const double* weights = nullptr;  // alpha, beta, gamma
    int64_t weight_stride = 0;        // 3 when every sample has its own

    // The coarse grid. Always inline: a copy that a file of wide instructions leaves behind could be the one that all take.
    [[gnu::always_inline]] int64_t rows() const { return kind == Kind::up ? x.rows : kind == Kind::down ? out.rows : x.rows >> levels; }
    [[gnu::always_inline]] int64_t columns() const { return kind == Kind::up ? x.columns : kind == Kind::down ? out.columns : x.columns >> levels; }
};

// Levels where both sides change by the same power of two; 0 is work for tables.
int haar_levels(const int64_t fine[2], const int64_t coarse[2]);

void haar(const Haar& job, const Isa& isa, int threads);

}  // namespace sk
