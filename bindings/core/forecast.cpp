// SPDX-License-Identifier: Apache-2.0
#include "forecast.hpp"

#include <algorithm>

#include "pool.hpp"

namespace sk {
namespace {

// A task of 2^15 elements hides its start.
template <class F>
void in_spans(int64_t size, int threads, F&& run) {
    constexpr int64_t kTask = 1 << 15;
    parallel_for((size + kTask - 1) / kTask, threads, [&](int64_t number, int) {
        const int64_t start = number * kTask;
        run(start, std::min(size, start + kTask));
    });
}

}  // namespace

void forecast(const Forecast& job, const Isa& isa, int threads) {
    in_spans(job.size, threads, [&](int64_t start, int64_t stop) { isa.forecast(job, start, stop); });
}

void update_moments(const Moments& job, const Isa& isa, int threads) {
    in_spans(job.size, threads, [&](int64_t start, int64_t stop) { isa.moments(job, start, stop); });
}

}  // namespace sk
