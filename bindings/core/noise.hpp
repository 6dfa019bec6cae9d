// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "isa.hpp"
#include "job.hpp"

namespace sk {

// Normal deviates into an array [samples, planes, rows, columns] of any strides (elements).
struct Noise {
    void* data = nullptr;
    Dtype dtype = Dtype::f32;
    int64_t size[4] = {}, stride[4] = {};
    const int64_t* seeds = nullptr;  // one per sample, or null: base_seed + sample
    int64_t base_seed = 0;
    uint32_t stream = 0;
};

void draw(const Noise& noise, const Isa& isa, int threads);

}  // namespace sk
