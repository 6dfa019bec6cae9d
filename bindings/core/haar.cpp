// SPDX-License-Identifier: Apache-2.0
#include "haar.hpp"

#include <algorithm>
#include <vector>

#include "pool.hpp"

namespace sk {

void haar(const Haar& job, const Isa& isa, int threads) {
    const int64_t planes = job.out.samples * job.out.outer * job.out.inner, h = job.rows(), w = job.columns();
    if (planes == 0 || h == 0 || w == 0) return;
    threads = std::max(1, threads);
    // A few large planes are cut into strips of columns, so that every thread has some.
    const int64_t blocks = (w + kLanes - 1) / kLanes;
    const int64_t strips = std::clamp<int64_t>(4 * threads / planes, 1, blocks);
    const bool drawn = job.has_second && !job.has_other;
    const int64_t step = drawn ? 3 * h * kLanes : 0;
    std::vector<float> memory(static_cast<std::size_t>(threads * step));
    parallel_for(planes * strips, threads, [&](int64_t number, int worker) {
        const int64_t strip = number % strips;
        isa.haar(job, number / strips, strip * blocks / strips, (strip + 1) * blocks / strips, memory.data() + worker * step);
    });
}

}  // namespace sk
