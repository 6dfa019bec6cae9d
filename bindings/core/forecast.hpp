// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "isa.hpp"
#include "job.hpp"

namespace sk {

// out[g] = sum of weights[g][k] features[k], float32, k ascending, product and sum rounded apart.
struct Forecast {
    const void* const* features = nullptr;  // K runs of `size` elements
    const Dtype* dtypes = nullptr;          // of each feature: float32, float16 or bfloat16
    const float* weights = nullptr;         // [targets][count]
    int64_t count = 0, targets = 0, size = 0;
    void* out = nullptr;  // [targets][size]
    Dtype out_dtype = Dtype::f32;
};

void forecast(const Forecast& job, const Isa& isa, int threads);

// moments[m] += row[m] feature, float32, product and sum rounded apart.
struct Moments {
    float* moments = nullptr;  // [count][size]
    const void* feature = nullptr;
    Dtype dtype = Dtype::f32;    // of the feature: float32, float16 or bfloat16
    const float* row = nullptr;  // [count]
    int64_t count = 0, size = 0;
};

void update_moments(const Moments& job, const Isa& isa, int threads);

}  // namespace sk
