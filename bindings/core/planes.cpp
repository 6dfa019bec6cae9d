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

// Numbers of 8 bytes.
struct Sizes {
    std::size_t slots = 0;    // largest number of slots or results, for one buffer of a scratch
    std::size_t half[2] = {}, data[2] = {}, bounds[2] = {};  // of each term, see Half
    std::size_t spectrum = 0;

    explicit Sizes(const Job& job) {
        for (int term = 0; term < (job.has_second ? 2 : 1); ++term) {
            const Folded &rows = *job.term[term].rows, &columns = *job.term[term].columns;
            for (const Folded* table : {&rows, &columns, rows.plain, columns.plain, rows.low, columns.low, columns.quick, columns.coarse}) {
                if (!table) continue;
                const int64_t most = std::max({padded(table->K), padded(table->m), int64_t{table->out_slots}});
                slots = std::max(slots, static_cast<std::size_t>(most));
            }
            const auto lines = static_cast<std::size_t>(padded(columns.K));
            half[term] = lines * padded(rows.m);
            if (job.mode != Mode::exact) continue;
            data[term] = lines * padded(rows.K) / 2;
            bounds[term] = lines;
        }
        spectrum = job.spectral ? half[0] : 0;
    }
    std::size_t scratch() const { return 7 * slots * kLanes; }
    std::size_t halves() const { return half[0] + half[1] + data[0] + data[1] + 3 * (bounds[0] + bounds[1]) + spectrum; }
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
    Half half(int worker, int term) const {
        double* p = first(worker) + (term == 0 ? 0 : sizes.half[0] + sizes.data[0] + 3 * sizes.bounds[0]);
        double* const data_of = p + sizes.half[term];
        double* const bounds = data_of + sizes.data[term];
        const std::size_t lines = sizes.bounds[term];
        return {p, reinterpret_cast<float*>(data_of), bounds, bounds + lines, bounds + 2 * lines};
    }
    void* spectrum(int worker) const { return first(worker) + sizes.halves() - sizes.spectrum; }

  private:
    double* shared;
    double* first(int worker) const { return shared ? shared : data + worker * step + sizes.scratch(); }
};

// With fewer planes per thread than this the last planes would leave threads idle; above this size a second plane in
// flight would cost more memory than it saves time.
constexpr int64_t kPlanesPerThread = 4;
constexpr std::size_t kMostHalves = std::size_t{1} << 25;  // numbers, 256 MiB

// One plane, whose blocks `each` shares out: each(count, work) calls work(block, scratch) for every block.
template <class Each>
void one_plane(const Job& job, const Isa& isa, int64_t plane, const Half (&halves)[2], void* spectrum, const Each& each) {
    const int terms = terms_of(job, plane);
    const auto blocks_of = [&](int term) { return term < terms ? padded(job.term[term].columns->K) / kLanes : 0; };
    for (const bool certified : {true, false}) {
        std::atomic<bool> finite{true}, settled{true};
        const auto rows = [&](int term, int64_t block, Scratch& scratch) {
            if (!isa.rows(job, term, plane, block, scratch, halves[term], spectrum, certified)) finite.store(false);
        };
        if (job.spectral) {
            each(blocks_of(0), [&](int64_t block, Scratch& scratch) { rows(0, block, scratch); });
            if (!finite.load()) return fill_nan(job.out, plane);
            each(padded(job.term[0].rows->m) / kLanes,
                 [&](int64_t block, Scratch& scratch) { isa.spectrum(job, block, scratch, halves[0], spectrum); });
            each(blocks_of(1), [&](int64_t block, Scratch& scratch) { rows(1, block, scratch); });
        } else {
            const int64_t first = blocks_of(0);
            each(first + blocks_of(1), [&](int64_t n, Scratch& scratch) { rows(n < first ? 0 : 1, n < first ? n : n - first, scratch); });
        }
        if (!finite.load()) return fill_nan(job.out, plane);
        each(padded(job.out.rows) / kLanes, [&](int64_t block, Scratch& scratch) {
            if (!isa.columns(job, plane, block, scratch, halves, certified)) settled.store(false);
        });
        if (settled.load()) return;
    }
}

}  // namespace

void plane_product(const Job& job, const Isa& isa, int threads) {
    const int64_t planes = job.out.samples * job.out.outer * job.out.inner;
    if (planes == 0 || job.out.rows == 0 || job.out.columns == 0) return;
    const Sizes sizes(job);
    threads = std::max(1, threads);
    const bool by_planes = threads == 1 || (planes >= kPlanesPerThread * threads && threads * sizes.halves() <= kMostHalves);
    const Memory memory(sizes, threads, by_planes);
    const auto run = [&](int64_t plane, int worker, const auto& each) {
        const Half halves[2] = {memory.half(worker, 0), memory.half(worker, 1)};
        one_plane(job, isa, plane, halves, memory.spectrum(worker), each);
    };
    if (by_planes) {
        parallel_for(planes, threads, [&](int64_t plane, int worker) {
            Scratch scratch = memory.scratch(worker);
            run(plane, worker, [&](int64_t count, const auto& work) {
                for (int64_t block = 0; block < count; ++block) work(block, scratch);
            });
        });
        return;
    }
    for (int64_t plane = 0; plane < planes; ++plane) {
        run(plane, 0, [&](int64_t count, const auto& work) {
            parallel_for(count, threads, [&](int64_t block, int worker) {
                Scratch scratch = memory.scratch(worker);
                work(block, scratch);
            });
        });
    }
}

const Isa* isa_named(const char* name) {
    if (std::strcmp(name, "baseline") == 0) return &isa_baseline;
#if defined(SK_X86)
    if (std::strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &isa_avx2;
    if (std::strcmp(name, "avx512") == 0 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
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
