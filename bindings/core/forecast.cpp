// SPDX-License-Identifier: Apache-2.0
#include "forecast.hpp"

#include <algorithm>

#include "pool.hpp"

namespace sk {

void forecast(const Forecast& job, const Isa& isa, int threads) {
    // A task of 2^15 elements hides its start; inside, pieces of 512 keep accumulators and features in the first cache.
    constexpr int64_t kTask = 1 << 15;
    parallel_for((job.size + kTask - 1) / kTask, threads, [&](int64_t number, int) {
        const int64_t start = number * kTask;
        isa.forecast(job, start, std::min(job.size, start + kTask));
    });
}

}  // namespace sk
