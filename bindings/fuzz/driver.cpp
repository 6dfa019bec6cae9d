// SPDX-License-Identifier: Apache-2.0
// Runs a libFuzzer target without libFuzzer: inputs [first, first + count), each made from its own number, so that the
// number that is printed when one fails repeats it. What it lacks is the search for new paths.
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size);

namespace {

volatile std::sig_atomic_t current = 0;

void failed(int signal) {
    std::fprintf(stderr, "input %d failed with signal %d; repeat it alone by its number and a count of 1\n", static_cast<int>(current), signal);
    std::_Exit(1);
}

uint64_t next(uint64_t& state) {
    state += UINT64_C(0x9E3779B97F4A7C15);  // splitmix64
    uint64_t z = state;
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

}  // namespace

int main(int argc, char** argv) {
    const int first = argc > 1 ? std::atoi(argv[1]) : 0, count = argc > 2 ? std::atoi(argv[2]) : 1000;
    for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, failed);
    std::vector<uint8_t> data;
    for (int number = first; number < first + count; ++number) {
        current = number;
        uint64_t state = static_cast<uint64_t>(number) << 32;
        data.resize(next(state) % 256);
        for (uint8_t& byte : data) byte = static_cast<uint8_t>(next(state));
        LLVMFuzzerTestOneInput(data.data(), data.size());
    }
    std::printf("%d inputs, no fault\n", count);
    return 0;
}
