// SPDX-License-Identifier: Apache-2.0
// The library's own threads: they wait between calls, and a call from a second thread meanwhile simply runs alone.
#pragma once

#include <cstdint>
#include <functional>

namespace sk {

// Runs task(0) ... task(count - 1), each once, on at most `threads` threads including the caller. `task` must not throw.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& task);

}  // namespace sk
