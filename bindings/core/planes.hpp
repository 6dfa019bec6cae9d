// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "isa.hpp"
#include "job.hpp"

namespace sk {

// The widest instruction set of this machine; by name ("baseline", "avx2", "avx512"), null where it cannot run.
const Isa& best_isa();
const Isa* isa_named(const char* name);

// Computes a job whose sizes and pointers agree; the caller has checked them. Throws std::bad_alloc only, before it writes.
void plane_product(const Job& job, const Isa& isa, int threads);

}  // namespace sk
