// SPDX-License-Identifier: Apache-2.0
// One level of a pyramid, down or up, and the noise of all levels; the contract is reference/pyramid.py.
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "job.hpp"

namespace sk {

// The two points that linear interpolation reads for each of `count` outputs, of `given`, and the weight of the second.
// Tables are null where both counts are equal, and for twice as many outputs: then the points follow from the index.
struct Points {
    int64_t given = 0, count = 0;
    const int32_t *left = nullptr, *right = nullptr;
    const double* weight = nullptr;
};

enum class Resample { area, bilinear, same };

// coarse = down(x), detail = x - up(coarse). All of one dtype; `resample` is not "same".
struct Split {
    Resample resample = Resample::area;
    Planes x, coarse, detail;
    Points down, up;  // of columns
};

// out = up(coarse) + detail, or detail - up(coarse). All of one dtype; with "same" all of one size.
struct Merge {
    Resample resample = Resample::area;
    bool subtract = false;
    Planes coarse, detail, out;
    Points up;
};

// z = (1 - t) x + t e, 0 where it is not shown, and v = e - x.
struct NoiseLevel {
    Planes x, noisy, velocity;
    const double* times = nullptr;  // of each sample, `step` apart
    const uint8_t* shown = nullptr;  // likewise, or null
    int64_t step = 0;
    const int64_t* seeds = nullptr;  // one per sample, or null: base_seed + sample
    int64_t base_seed = 0;
    uint32_t stream = 0;
};

// Fine and coarse sides that blocks of ceil(fine / coarse) pixels lead between.
bool blocks_fit(int64_t fine, int64_t coarse);

// Their `down` and `up` are filled in here.
void split(Split job, const Isa& isa, int threads);
void merge(Merge job, const Isa& isa, int threads);

void noise_levels(const NoiseLevel* levels, int64_t count, const Isa& isa, int threads);

}  // namespace sk
