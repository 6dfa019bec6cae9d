// SPDX-License-Identifier: Apache-2.0
#include "folder.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace sk {

// The two mirrors of the library's bases: j -> n - 1 - j (cosines) and j -> -j modulo n (Fourier).
enum class Mirror { reversal, modulo };

struct Halves {
    std::vector<int32_t> first, partner, fixed;
};

namespace {

int32_t mirrored(Mirror mirror, int32_t j, int32_t n) { return mirror == Mirror::reversal ? n - 1 - j : (n - j) % n; }

Halves halves(Mirror mirror, int32_t n) {
    Halves result;
    for (int32_t j = 0; j < n; ++j) {
        const int32_t k = mirrored(mirror, j, n);
        if (j < k) {
            result.first.push_back(j);
            result.partner.push_back(k);
        } else if (j == k) {
            result.fixed.push_back(j);
        }
    }
    return result;
}

std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

std::vector<int32_t> picked(const std::vector<int32_t>& from, const std::vector<int32_t>& index) {
    std::vector<int32_t> result;
    for (const int32_t i : index) result.push_back(from[i]);
    return result;
}

Block picked(const Block& of, const std::vector<int32_t>& rows, const std::vector<int32_t>& columns) {
    Block result;
    result.m = static_cast<int32_t>(rows.size());
    result.K = static_cast<int32_t>(columns.size());
    for (const int32_t i : rows) {
        for (const int32_t j : columns) {
            result.high.push_back(of.h(i, j));
            result.low.push_back(of.l(i, j));
        }
    }
    return result;
}

// +1 or -1 where line `at` (a row, or a column) is even or odd under the mirror of its other axis, 0 where neither.
int parity(const Block& block, Mirror mirror, bool of_row, int32_t at) {
    const int32_t n = of_row ? block.K : block.m;
    bool even = true, odd = true;
    for (int32_t j = 0; j < n && (even || odd); ++j) {
        const int32_t k = mirrored(mirror, j, n);
        const double a = of_row ? block.h(at, j) : block.h(j, at), b = of_row ? block.h(at, k) : block.h(k, at);
        const double c = of_row ? block.l(at, j) : block.l(j, at), d = of_row ? block.l(at, k) : block.l(k, at);
        even = even && a == b && c == d;
        odd = odd && a == -b && c == -d;
    }
    return even ? 1 : odd ? -1 : 0;
}

// Splits lines by parity; false when one of them has none.
bool parities(const Block& block, Mirror mirror, bool of_rows, std::vector<int32_t>& even, std::vector<int32_t>& odd) {
    const int32_t lines = of_rows ? block.m : block.K;
    for (int32_t at = 0; at < lines; ++at) {
        const int sign = parity(block, mirror, of_rows, at);
        if (sign == 0) return false;
        (sign > 0 ? even : odd).push_back(at);
    }
    return !even.empty() && !odd.empty();
}

bool centrosymmetric(const Block& block, Mirror mirror) {
    for (int32_t i = 0; i < block.m; ++i) {
        const int32_t k = mirrored(mirror, i, block.m);
        for (int32_t j = 0; j < block.K; ++j) {
            const int32_t l = mirrored(mirror, j, block.K);
            if (block.h(i, j) != block.h(k, l) || block.l(i, j) != block.l(k, l)) return false;
        }
    }
    return true;
}

void add(std::vector<Butterfly>& ops, const std::vector<int32_t>& slots, const Halves& side) {
    for (std::size_t j = 0; j < side.first.size(); ++j) ops.push_back({slots[side.first[j]], slots[side.partner[j]]});
}

}  // namespace

void Folder::fold(Block block, bool top) {
    if (std::min(block.m, block.K) >= kSmallest) {
        for (const Mirror mirror : {Mirror::reversal, Mirror::modulo}) {
            if (fold_rows(block, mirror, top) || fold_columns(block, mirror, top)) return;
            if (top && centrosymmetric(block, mirror)) return fold_both(block, mirror);
        }
    }
    leaves.push_back(std::move(block));
}

// Analysis: row k is even or odd along its entries. Even rows meet z_j + z_j', odd rows z_j - z_j'.
bool Folder::fold_rows(const Block& block, Mirror mirror, bool top) {
    std::vector<int32_t> even, odd;
    if (!parities(block, mirror, true, even, odd)) return false;
    const Halves side = halves(mirror, block.K);
    add(in_ops, block.in, side);
    if (top) outermost_in = in_ops.size();
    Block sum = picked(block, even, joined(side.first, side.fixed));
    sum.in = picked(block.in, joined(side.first, side.fixed));
    sum.out = picked(block.out, even);
    Block difference = picked(block, odd, side.first);
    difference.in = picked(block.in, side.partner);
    difference.out = picked(block.out, odd);
    fold(std::move(sum), false);
    fold(std::move(difference), false);
    return true;
}

// Synthesis: column k is even or odd. Results i and i' are the sum and the difference of the two halves of the sum.
bool Folder::fold_columns(const Block& block, Mirror mirror, bool top) {
    std::vector<int32_t> even, odd;
    if (!parities(block, mirror, false, even, odd)) return false;
    const Halves side = halves(mirror, block.m);
    Block sum = picked(block, joined(side.first, side.fixed), even);
    sum.in = picked(block.in, even);
    sum.out = picked(block.out, joined(side.first, side.fixed));
    Block difference = picked(block, side.first, odd);
    difference.in = picked(block.in, odd);
    difference.out = picked(block.out, side.partner);
    fold(std::move(sum), false);
    fold(std::move(difference), false);
    if (top) outermost_out = out_ops.size();
    add(out_ops, block.out, side);
    return true;
}

// M[i', j'] = M[i, j]: both ends fold, with (M[i, j] + M[i, j']) / 2 and (M[i, j] - M[i, j']) / 2. Sums reach
// twice the bound of the slices, 2^53, where float64 still holds every integer; so this is done once, at the top.
void Folder::fold_both(const Block& block, Mirror mirror) {
    const Halves rows = halves(mirror, block.m), columns = halves(mirror, block.K);
    add(in_ops, block.in, columns);
    outermost_in = in_ops.size();
    const std::vector<int32_t> upper = joined(rows.first, rows.fixed), left = joined(columns.first, columns.fixed);
    Block sum = picked(block, upper, left), difference = picked(block, rows.first, columns.first);
    for (int32_t i = 0; i < sum.m; ++i) {
        for (std::size_t j = 0; j < columns.first.size(); ++j) {
            const int32_t mirror_j = columns.partner[j];
            const std::size_t at = static_cast<std::size_t>(i) * sum.K + j;
            sum.high[at] = 0.5 * (sum.high[at] + block.h(upper[i], mirror_j));
            sum.low[at] = 0.5 * (sum.low[at] + block.l(upper[i], mirror_j));
            if (i >= difference.m) continue;
            const std::size_t there = static_cast<std::size_t>(i) * difference.K + j;
            difference.high[there] = 0.5 * (difference.high[there] - block.h(upper[i], mirror_j));
            difference.low[there] = 0.5 * (difference.low[there] - block.l(upper[i], mirror_j));
        }
    }
    sum.in = picked(block.in, left);
    sum.out = picked(block.out, upper);
    difference.in = picked(block.in, columns.partner);
    difference.out = picked(block.out, rows.partner);
    leaves.push_back(std::move(sum));
    leaves.push_back(std::move(difference));
    outermost_out = out_ops.size();
    add(out_ops, block.out, rows);
}

double roundings(int32_t k, int32_t K) {
    const auto later = [](int32_t number, int32_t count) { return count - std::max(number, 1); };
    const int32_t run = k / kRun, group = k / kGroup, end = std::min(K, (group + 1) * kGroup);
    const int32_t runs = (end - group * kGroup + kRun - 1) / kRun, terms = std::min(end, (run + 1) * kRun) - run * kRun;
    return 1 + later(k % kRun, terms) + later(run - group * kGroup / kRun, runs) + later(group, (K + kGroup - 1) / kGroup);
}

// A bound for the float64 product with the folded table, per unit of the 2-norm of the data, times 2^53. A term of a
// leaf's sum is rounded with every sum it is part of. A butterfly at the input, which at most doubles the square of the
// norm, is exact on data of 38 bits; one at the output adds two numbers of disjoint inputs and rounds once.
double Folder::rounding(int32_t m, int32_t K) const {
    std::vector<int32_t> levels_in(K, 0), levels_out(m, 0);
    for (const Butterfly& op : in_ops) levels_in[op.p] = levels_in[op.q] = std::max(levels_in[op.p], levels_in[op.q]) + 1;
    std::vector<double> squares(m, 0.0), norms(m, 0.0);
    for (const Block& leaf : leaves) {
        int32_t level = 0;
        for (const int32_t index : leaf.in) level = std::max(level, levels_in[index]);
        for (int32_t i = 0; i < leaf.m; ++i) {
            double sum = 0, norm = 0;
            for (int32_t k = 0; k < leaf.K; ++k) {
                const double entry = leaf.h(i, k), part = roundings(k, leaf.K) * entry;
                sum += part * part;
                norm += entry * entry;
            }
            squares[leaf.out[i]] = std::ldexp(sum, level);
            norms[leaf.out[i]] = std::ldexp(norm, level);
        }
    }
    for (const Butterfly& op : out_ops) {
        levels_out[op.p] = levels_out[op.q] = std::max(levels_out[op.p], levels_out[op.q]) + 1;
        squares[op.p] = squares[op.q] = squares[op.p] + squares[op.q];
        norms[op.p] = norms[op.q] = norms[op.p] + norms[op.q];
    }
    double most = 0;
    for (int32_t i = 0; i < m; ++i) most = std::max(most, std::sqrt(squares[i]) + levels_out[i] * std::sqrt(norms[i]));
    return most;
}

}  // namespace sk
