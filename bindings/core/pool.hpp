// SPDX-License-Identifier: Apache-2.0
// The threads of an OpenMP runtime that is loaded already, else the library's own: those wait between calls, and a call
// from a second thread meanwhile simply runs alone.
#pragma once

#include <cstdint>
#include <functional>

namespace sk {

// A task gets its number and that of the thread it runs on, 0 <= worker < threads. It must not throw.
using Task = std::function<void(int64_t number, int worker)>;

// Runs tasks 0 ... count - 1, each once, on at most `threads` threads including the caller, which is worker 0.
void parallel_for(int64_t count, int threads, const Task& task);

}  // namespace sk
