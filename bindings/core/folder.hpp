// SPDX-License-Identifier: Apache-2.0
// How a table is cut along its symmetries: butterflies before and after dense blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "job.hpp"

namespace sk {

// A dense matrix of two slices (the second all zero in the plain modes) and the slots it reads and writes.
struct Block {
    int32_t m = 0, K = 0;
    std::vector<double> high, low;
    std::vector<int32_t> in, out;
    double h(int32_t i, int32_t j) const { return high[static_cast<std::size_t>(i) * K + j]; }
    double l(int32_t i, int32_t j) const { return low[static_cast<std::size_t>(i) * K + j]; }
};

enum class Mirror;
struct Halves;

struct Folder {
    std::vector<Rotation<double>> rotations_in, rotations_out;
    std::vector<Butterfly> in_ops, out_ops;
    std::vector<Block> leaves;
    std::size_t outermost_in = 0;         // the outermost butterflies of the input are those before this one
    std::size_t outermost_out = SIZE_MAX;  // and of the output those from this one on

    // Cuts a block as far as it has symmetries and is large enough.
    void fold(Block block, bool top);

    // A bound for the error of the float64 product, per unit of the 2-norm of the data, times 2^53.
    double rounding(int32_t m, int32_t K) const;

  private:
    bool fold_rows(const Block& block, Mirror mirror, bool top);
    bool fold_columns(const Block& block, Mirror mirror, bool top);
    void fold_both(const Block& block, Mirror mirror);
};

// How often term k of a sum of K is rounded by the micro-kernel, which joins runs and groups of runs.
double roundings(int32_t k, int32_t K);

// Blocks with a side below this are not worth a butterfly.
inline constexpr int32_t kSmallest = 12;

}  // namespace sk
