// SPDX-License-Identifier: Apache-2.0
#include "noise.hpp"

#include "pool.hpp"

namespace sk {

void draw(const Noise& noise, const Isa& isa, int threads) {
    const int64_t planes = noise.size[1], groups = (noise.size[2] + 3) / 4;
    if (noise.size[3] == 0) return;
    // A task is one group of four rows: they share their Philox calls.
    parallel_for(noise.size[0] * planes * groups, threads, [&](int64_t task, int) {
        const int64_t sample = task / groups / planes, plane = task / groups % planes, group = task % groups;
        const auto seed = static_cast<uint64_t>(noise.seeds ? noise.seeds[sample] : noise.base_seed + sample);
        isa.noise(noise, seed, sample * noise.stride[0] + plane * noise.stride[1], static_cast<uint32_t>(plane), group);
    });
}

}  // namespace sk
