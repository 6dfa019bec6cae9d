// SPDX-License-Identifier: Apache-2.0
#include "pyramid.hpp"

#include <algorithm>
#include <vector>

#include "pool.hpp"

namespace sk {
namespace {

struct Table {
    std::vector<int32_t> left, right;
    std::vector<double> weight;

    // Output i reads position ((2 i + 1) given - count) / (2 count), not below 0: a whole number and a fraction, one
    // division in the type of the arithmetic.
    Points points(int64_t given, int64_t count, Dtype dtype) {
        if (given == count || count == 2 * given) return {given, count, nullptr, nullptr, nullptr};
        left.resize(count);
        right.resize(count);
        weight.resize(count);
        const bool wide = dtype == Dtype::f64;
        for (int64_t i = 0; i < count; ++i) {
            const int64_t position = std::max<int64_t>((2 * i + 1) * given - count, 0), part = position % (2 * count);
            left[i] = static_cast<int32_t>(position / (2 * count));
            right[i] = static_cast<int32_t>(std::min<int64_t>(left[i] + 1, given - 1));
            weight[i] = wide ? static_cast<double>(part) / static_cast<double>(2 * count)
                             : static_cast<double>(static_cast<float>(part) / static_cast<float>(2 * count));
        }
        return {given, count, left.data(), right.data(), weight.data()};
    }
};

// Rows of all planes in bands of some 2^15 pixels. All memory is taken before anything runs: seven lines per worker.
template <class F>
void in_bands(const Planes& fine, int64_t rows, int threads, F&& run) {
    const int64_t planes = fine.samples * fine.outer * fine.inner;
    if (planes == 0 || fine.rows == 0 || fine.columns == 0) return;
    const int64_t bands = std::clamp<int64_t>(fine.rows * fine.columns >> 15, 1, rows);
    threads = static_cast<int>(std::clamp<int64_t>(threads, 1, planes * bands));
    const int64_t step = 7 * ((fine.columns + 7) / 8 * 8);
    std::vector<double> memory(static_cast<std::size_t>(threads * step));
    parallel_for(planes * bands, threads, [&](int64_t number, int worker) {
        const int64_t band = number % bands;
        run(number / bands, band * rows / bands, (band + 1) * rows / bands, memory.data() + worker * step);
    });
}

}  // namespace

bool blocks_fit(int64_t fine, int64_t coarse) {
    const int64_t block = (fine - 1) / coarse + 1;
    return (fine - 1) / block + 1 == coarse;
}

void split(Split job, const Isa& isa, int threads) {
    Table down, up;
    if (job.resample == Resample::bilinear) {
        job.down = down.points(job.x.columns, job.coarse.columns, job.x.dtype);
        job.up = up.points(job.coarse.columns, job.x.columns, job.x.dtype);
    }
    const int64_t rows = job.resample == Resample::area ? job.coarse.rows : job.x.rows;
    in_bands(job.x, rows, threads,
             [&](int64_t plane, int64_t first, int64_t last, double* memory) { isa.split(job, plane, first, last, memory); });
}

void merge(Merge job, const Isa& isa, int threads) {
    Table up;
    if (job.resample == Resample::bilinear) job.up = up.points(job.coarse.columns, job.out.columns, job.out.dtype);
    in_bands(job.out, job.out.rows, threads,
             [&](int64_t plane, int64_t first, int64_t last, double* memory) { isa.merge(job, plane, first, last, memory); });
}

void noise_levels(const NoiseLevel* levels, int64_t count, const Isa& isa, int threads) {
    // A task is one group of four rows of one plane of one level: they share their Philox calls.
    const auto groups = [](const Planes& p) { return (p.rows + 3) / 4; };
    std::vector<int64_t> end(static_cast<std::size_t>(count));
    int64_t tasks = 0;
    for (int64_t s = 0; s < count; ++s) {
        const Planes& p = levels[s].x;
        tasks += p.columns == 0 ? 0 : p.samples * p.outer * p.inner * groups(p);
        end[s] = tasks;
    }
    parallel_for(tasks, std::max(1, threads), [&](int64_t task, int) {
        const auto s = std::upper_bound(end.begin(), end.end(), task) - end.begin();
        const int64_t number = task - (s == 0 ? 0 : end[s - 1]), each = groups(levels[s].x);
        isa.noise_level(levels[s], number / each, number % each);
    });
}

}  // namespace sk
