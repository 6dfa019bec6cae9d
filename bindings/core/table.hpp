// SPDX-License-Identifier: Apache-2.0
// A constant matrix [m, K], cut along its symmetries and packed for the micro-kernels.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "job.hpp"

namespace sk {

// Memory on a cache line, uninitialised; throws std::bad_alloc.
template <class T>
struct Aligned {
    Aligned() = default;
    explicit Aligned(std::size_t count) : size(count) {
        const std::size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
        data.reset(static_cast<T*>(std::aligned_alloc(64, bytes ? bytes : 64)));
        if (!data) throw std::bad_alloc();
    }
    struct Free {
        void operator()(T* p) const { std::free(p); }
    };
    std::unique_ptr<T[], Free> data;
    std::size_t size = 0;
};

// Splits a table whose rows have K entries, given in `high`, into two slices that fit float32; `low` has its size.
void split_table(int64_t K, std::vector<double>& high, std::vector<double>& low);

// A table, folded (see Folded) and packed. Immutable once built.
struct Table {
    // `values` is [m, K] row by row. Exact: split here into two slices, or taken from `slices` [2, m, K].
    Table(Mode mode, int64_t m, int64_t K, const double* values);
    Table(int64_t m, int64_t K, const float* slices);

    // The cosine transform of n points in float32 or float64, factorised into rotations and small dense blocks.
    static Table fast_dct(Mode mode, int64_t n, bool synthesis);

    const Folded& folded() const { return view; }
    int64_t rows() const { return view.m; }
    int64_t columns() const { return view.K; }

  private:
    Folded view{};
    std::unique_ptr<Table> plain, low, quick, coarse;
    std::vector<int32_t> source;
    std::vector<Door> doors_in, doors_out;
    std::vector<Exit> exits;
    std::vector<Butterfly> in_ops, out_ops;
    std::vector<Leaf> leaves;
    std::vector<Rotation<float>> rotations_in, rotations_out;
    std::vector<Rotation<double>> long_rotations_in, long_rotations_out;
    Aligned<double> packed;
    Aligned<float> packed_single, slices;

    Table() = default;
    void lay_out(int64_t m, int64_t K, const struct Folder& folder);
    void build(int64_t m, int64_t K, std::vector<double> high, std::vector<double> low);
    void certify(const struct Block& all);
    template <class T> void pack(const std::vector<struct Block>& blocks, int32_t panel, bool apart, Aligned<T>& target);
};

// B: bits per slice, so that a dot product of `length` terms is exact in float64.
int bits_for(int64_t length);

}  // namespace sk
