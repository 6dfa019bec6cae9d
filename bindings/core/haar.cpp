// SPDX-License-Identifier: Apache-2.0
#include "haar.hpp"

#include "pool.hpp"

namespace sk {

void haar(const Haar& job, const Isa& isa, int threads) {
    parallel_for(job.out.samples * job.out.outer * job.out.inner, threads < 1 ? 1 : threads,
                 [&](int64_t plane, int) { isa.haar(job, plane); });
}

}  // namespace sk
