// SPDX-License-Identifier: Apache-2.0
#include "haar.hpp"

#include <algorithm>
#include <vector>

#include "pool.hpp"

namespace sk {

int haar_levels(const int64_t fine[2], const int64_t coarse[2]) {
    for (int levels = 1; levels <= kHaarLevels; ++levels) {
        if (fine[0] == coarse[0] << levels && fine[1] == coarse[1] << levels) return levels;
    }
    return 0;
}

void haar(const Haar& job, const Isa& isa, int threads) {
    const int64_t planes = job.out.samples * job.out.outer * job.out.inner, h = job.rows(), w = job.columns();
    if (planes == 0 || h == 0 || w == 0) return;
    threads = std::max(1, threads);
    // A few large planes are cut into strips of columns, so that every thread has some.
    const int64_t blocks = (w + kLanes - 1) / kLanes;
    const int64_t strips = std::clamp<int64_t>(4 * threads / planes, 1, blocks);
    // LL of both terms, and three bands of noise for 16 columns.
    const int64_t step = kHaarRows * (2 * (kLanes << (job.levels - 1)) + 3 * kLanes / 2);
    threads = static_cast<int>(std::min<int64_t>(threads, planes * strips));
    std::vector<double> memory(static_cast<std::size_t>(threads * step));
    parallel_for(planes * strips, threads, [&](int64_t number, int worker) {
        const int64_t strip = number % strips;
        isa.haar(job, number / strips, strip * blocks / strips, (strip + 1) * blocks / strips, memory.data() + worker * step);
    });
}

}  // namespace sk
