// SPDX-License-Identifier: Apache-2.0
// Schedules plane products: whole planes on each thread, or the blocks of one plane when there are few planes.
#include "planes.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <vector>

#include "pool.hpp"
#include "table.hpp"

namespace sk {
namespace {

int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Buffers of a thread, kept for its next call: a fresh mapping costs more than a small product.
class Buffers {
  public:
    double* take(std::size_t count) {
        if (memory.size < count) memory = Aligned<double>(count);
        return memory.data.get();
    }

  private:
    Aligned<double> memory;
};

struct Sizes {
    std::size_t slots = 0;    // largest number of slots or results, for one buffer of a scratch
    std::size_t half[3] = {};  // elements between the products of each term, and of the spectrum

    explicit Sizes(const Job& job) {
        for (int term = 0; term < (job.has_second ? 2 : 1); ++term) {
            for (const Folded* table : {job.term[term].rows, job.term[term].columns}) {
                const int64_t most = std::max({padded(table->K), padded(table->m), int64_t{table->out_slots}});
                slots = std::max(slots, static_cast<std::size_t>(most));
            }
            half[term] = static_cast<std::size_t>(padded(job.term[term].columns->K) * padded(job.term[term].rows->m));
        }
        half[2] = job.spectral ? half[0] : 0;
    }
    std::size_t scratch() const { return 7 * slots * kLanes; }
    std::size_t halves() const { return half[0] + half[1] + half[2]; }
};

double weight(const Job& job, int64_t plane, int which) {
    return job.weights[job.weight_stride * (plane / (job.out.outer * job.out.inner)) + which];
}

// Terms that take part in a plane: a weight of zero leaves the second one out, whatever it holds.
int terms_of(const Job& job, int64_t plane) { return job.spectral || (job.has_second && weight(job, plane, 1) != 0) ? 2 : 1; }

void fill_nan(const Planes& p, int64_t plane) {
    const int64_t inner = plane % p.inner, outer = plane / p.inner % p.outer, sample = plane / p.inner / p.outer;
    const int64_t base = sample * p.stride[0] + outer * p.stride[1] + inner * p.stride[2];
    for (int64_t i = 0; i < p.rows; ++i) {
        for (int64_t j = 0; j < p.columns; ++j) {
            const int64_t at = base + i / p.patch_rows * p.stride[3] + i % p.patch_rows * p.stride[4] +
                               j / p.patch_columns * p.stride[5] + j % p.patch_columns * p.stride[6];
            switch (p.dtype) {
                case Dtype::f32: static_cast<float*>(p.data)[at] = std::numeric_limits<float>::quiet_NaN(); break;
                case Dtype::f64: static_cast<double*>(p.data)[at] = std::numeric_limits<double>::quiet_NaN(); break;
                case Dtype::f16: static_cast<uint16_t*>(p.data)[at] = 0x7E00; break;
                case Dtype::bf16: static_cast<uint16_t*>(p.data)[at] = 0x7FC0; break;
            }
        }
    }
}

// All memory of a call, taken before anything runs: a thread of the pool must not meet an exception.
struct Memory {
    double* data;
    const Sizes& sizes;
    std::size_t step;  // from one worker to the next

    Memory(const Sizes& of, int workers, bool halves_each) : sizes(of), step(of.scratch() + (halves_each ? of.halves() : 0)) {
        thread_local Buffers buffers;
        data = buffers.take(workers * step + (halves_each ? 0 : of.halves()));
        shared = halves_each ? nullptr : data + workers * step;
    }
    Scratch scratch(int worker) const {
        double* const p = data + worker * step;
        const std::size_t one = sizes.slots * kLanes;
        return {p, p + one, p + 2 * one, p + 3 * one, p + 4 * one, p + 5 * one, p + 6 * one};
    }
    double* half(int worker, int term) const {
        double* const first = shared ? shared : data + worker * step + sizes.scratch();
        return first + (term == 0 ? 0 : term == 1 ? sizes.half[0] : sizes.half[0] + sizes.half[1]);
    }

  private:
    double* shared;
};

// With fewer planes per thread than this the last planes would leave threads idle; above this size a second plane in
// flight would cost more memory than it saves time.
constexpr int64_t kPlanesPerThread = 4;
constexpr std::size_t kMostHalves = std::size_t{1} << 25;  // numbers, 256 MiB

}  // namespace

void plane_product(const Job& job, const Isa& isa, int threads) {
    const int64_t planes = job.out.samples * job.out.outer * job.out.inner;
    if (planes == 0 || job.out.rows == 0 || job.out.columns == 0) return;
    const Sizes sizes(job);
    threads = std::max(1, threads);
    const int64_t row_blocks = padded(job.out.rows) / kLanes;
    const auto column_blocks = [&](int term) { return padded(job.term[term].columns->K) / kLanes; };

    const int64_t spectrum_blocks = job.spectral ? padded(job.term[0].rows->m) / kLanes : 0;

    if (threads == 1 || (planes >= kPlanesPerThread * threads && threads * sizes.halves() <= kMostHalves)) {
        const Memory memory(sizes, threads, true);
        parallel_for(planes, threads, [&](int64_t plane, int worker) {
            Scratch scratch = memory.scratch(worker);
            void* const spectrum = memory.half(worker, 2);
            for (int term = 0; term < terms_of(job, plane); ++term) {
                for (int64_t block = 0; block < column_blocks(term); ++block) {
                    if (!isa.rows(job, term, plane, block, scratch, memory.half(worker, term), spectrum)) return fill_nan(job.out, plane);
                }
                if (term == 1) break;
                for (int64_t block = 0; block < spectrum_blocks; ++block) {
                    isa.spectrum(job, block, scratch, memory.half(worker, 0), spectrum);
                }
            }
            const void* const halves[2] = {memory.half(worker, 0), memory.half(worker, 1)};
            for (int64_t block = 0; block < row_blocks; ++block) isa.columns(job, plane, block, scratch, halves);
        });
        return;
    }
    const Memory memory(sizes, threads, false);
    void* const spectrum = memory.half(0, 2);
    const void* const halves[2] = {memory.half(0, 0), memory.half(0, 1)};
    for (int64_t plane = 0; plane < planes; ++plane) {
        const int64_t first = column_blocks(0), all = terms_of(job, plane) == 2 ? first + column_blocks(1) : first;
        std::atomic<bool> finite{true};
        const auto rows = [&](int64_t from, int64_t to) {
            parallel_for(to - from, threads, [&](int64_t number, int worker) {
                Scratch scratch = memory.scratch(worker);
                const int64_t n = from + number;
                const int term = n < first ? 0 : 1;
                if (!isa.rows(job, term, plane, term == 0 ? n : n - first, scratch, memory.half(0, term), spectrum)) finite.store(false);
            });
        };
        rows(0, job.spectral ? first : all);
        if (job.spectral && finite.load()) {
            parallel_for(spectrum_blocks, threads, [&](int64_t block, int worker) {
                Scratch scratch = memory.scratch(worker);
                isa.spectrum(job, block, scratch, memory.half(0, 0), spectrum);
            });
            rows(first, all);
        }
        if (!finite.load()) {
            fill_nan(job.out, plane);
            continue;
        }
        parallel_for(row_blocks, threads, [&](int64_t block, int worker) {
            Scratch scratch = memory.scratch(worker);
            isa.columns(job, plane, block, scratch, halves);
        });
    }
}

const Isa* isa_named(const char* name) {
    if (std::strcmp(name, "baseline") == 0) return &isa_baseline;
#if defined(SK_X86)
    if (std::strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &isa_avx2;
    if (std::strcmp(name, "avx512") == 0 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        return &isa_avx512;
    }
#endif
    return nullptr;
}

const Isa& best_isa() {
    for (const char* const name : {"avx512", "avx2"}) {
        if (const Isa* const isa = isa_named(name)) return *isa;
    }
    return isa_baseline;
}

}  // namespace sk
