// SPDX-License-Identifier: Apache-2.0
#include "table.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace sk {

int bits_for(int64_t length) {
    const int ceil_log2 = std::bit_width(static_cast<uint64_t>(length - 1));
    return std::min(22, (52 - ceil_log2) / 2);
}

// A dense matrix of two slices (the second all zero in the plain modes) and the slots it reads and writes.
struct Block {
    int32_t m = 0, K = 0;
    std::vector<double> high, low;
    std::vector<int32_t> in, out;
    double h(int32_t i, int32_t j) const { return high[static_cast<std::size_t>(i) * K + j]; }
    double l(int32_t i, int32_t j) const { return low[static_cast<std::size_t>(i) * K + j]; }
};

namespace {

constexpr int32_t kSmallest = 12;  // blocks with a side below this are not worth a butterfly

// The two mirrors of the library's bases: j -> n - 1 - j (cosines) and j -> -j modulo n (Fourier).
enum class Mirror { reversal, modulo };

struct Halves {
    std::vector<int32_t> first, partner, fixed;
};

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

struct Folder {
    std::vector<Butterfly> in_ops, out_ops;
    std::vector<Block> leaves;
    std::size_t outermost_in = 0;         // the outermost butterflies of the input are those before this one
    std::size_t outermost_out = SIZE_MAX;  // and of the output those from this one on

    void fold(Block block, bool top) {
        if (std::min(block.m, block.K) >= kSmallest) {
            for (const Mirror mirror : {Mirror::reversal, Mirror::modulo}) {
                if (fold_rows(block, mirror, top) || fold_columns(block, mirror, top)) return;
                if (top && centrosymmetric(block, mirror)) return fold_both(block, mirror);
            }
        }
        leaves.push_back(std::move(block));
    }

    // Analysis: row k is even or odd along its entries. Even rows meet z_j + z_j', odd rows z_j - z_j'.
    bool fold_rows(const Block& block, Mirror mirror, bool top) {
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
    bool fold_columns(const Block& block, Mirror mirror, bool top) {
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
    void fold_both(const Block& block, Mirror mirror) {
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

    static void add(std::vector<Butterfly>& ops, const std::vector<int32_t>& slots, const Halves& side) {
        for (std::size_t j = 0; j < side.first.size(); ++j) ops.push_back({slots[side.first[j]], slots[side.partner[j]]});
    }
};

// The power of two just above a magnitude; 1 where it is 0.
double grid_above(double magnitude) {
    int exponent = 0;
    std::frexp(magnitude == 0 ? 0.5 : magnitude, &exponent);
    return std::ldexp(1.0, exponent);
}

// A door for every slot: pairs for the operations [first, last), the others alone, in the order of the slots.
std::vector<Door> doors(const std::vector<Butterfly>& ops, std::size_t first, std::size_t last, const std::vector<int32_t>& slot_of) {
    std::vector<Door> result;
    std::vector<bool> paired(slot_of.size(), false);
    for (std::size_t n = first; n < last; ++n) {
        result.push_back({slot_of[ops[n].p], slot_of[ops[n].q], ops[n].p, ops[n].q});
        paired[ops[n].p] = paired[ops[n].q] = true;
    }
    for (std::size_t index = 0; index < slot_of.size(); ++index) {
        if (!paired[index]) result.push_back({slot_of[index], -1, static_cast<int32_t>(index), -1});
    }
    std::sort(result.begin(), result.end(), [](const Door& x, const Door& y) { return x.p < y.p; });
    return result;
}

}  // namespace

Table::Table(Mode mode, int64_t m, int64_t K, const double* values) {
    const std::size_t count = static_cast<std::size_t>(m) * K;
    std::vector<double> high(values, values + count), low(count, 0.0);
    view.mode = mode;
    if (mode == Mode::exact) {
        double largest = 0;
        for (const double v : high) largest = std::max(largest, std::fabs(v));
        const double shift = std::ldexp(1.5 * grid_above(largest), 52 - bits_for(K));
        const double finer = std::ldexp(shift, -bits_for(K));
        for (std::size_t i = 0; i < count; ++i) {
            const double value = high[i];
            high[i] = (value + shift) - shift;
            low[i] = ((value - high[i]) + finer) - finer;
        }
    } else if (mode == Mode::f32) {
        for (double& v : high) v = static_cast<float>(v);
    }
    build(m, K, std::move(high), std::move(low));
}

Table::Table(int64_t m, int64_t K, const float* slices) {
    const std::size_t count = static_cast<std::size_t>(m) * K;
    view.mode = Mode::exact;
    build(m, K, std::vector<double>(slices, slices + count), std::vector<double>(slices + count, slices + 2 * count));
}

void Table::build(int64_t m, int64_t K, std::vector<double> high, std::vector<double> low) {
    Block all;
    all.m = static_cast<int32_t>(m);
    all.K = static_cast<int32_t>(K);
    all.high = std::move(high);
    all.low = std::move(low);
    all.in.resize(K);
    all.out.resize(m);
    std::iota(all.in.begin(), all.in.end(), 0);
    std::iota(all.out.begin(), all.out.end(), 0);
    Folder folder;
    folder.fold(std::move(all), true);

    const int32_t slices = view.mode == Mode::exact ? 2 : 1, panel = view.mode == Mode::exact ? kRowsExact : kRowsPlain;
    int64_t offset = 0;
    int32_t slots = 0;
    std::vector<int32_t> slot_in(K), slot_out(m);
    for (const Block& block : folder.leaves) {
        const int32_t padded = (block.m + panel - 1) / panel * panel;
        leaves.push_back({static_cast<int32_t>(source.size()), block.K, slots, padded, offset});
        for (const int32_t index : block.in) {
            slot_in[index] = static_cast<int32_t>(source.size());
            source.push_back(index);
        }
        for (std::size_t i = 0; i < block.out.size(); ++i) slot_out[block.out[i]] = slots + static_cast<int32_t>(i);
        slots += padded;
        offset += static_cast<int64_t>(padded) * block.K * slices;
    }
    doors_in = doors(folder.in_ops, 0, folder.outermost_in, slot_in);
    doors_out = doors(folder.out_ops, std::min(folder.outermost_out, folder.out_ops.size()), folder.out_ops.size(), slot_out);
    for (std::size_t n = folder.outermost_in; n < folder.in_ops.size(); ++n) {
        in_ops.push_back({slot_in[folder.in_ops[n].p], slot_in[folder.in_ops[n].q]});
    }
    for (std::size_t n = 0; n < std::min(folder.outermost_out, folder.out_ops.size()); ++n) {
        out_ops.push_back({slot_out[folder.out_ops[n].p], slot_out[folder.out_ops[n].q]});
    }
    if (view.mode == Mode::f32) {
        packed_single = Aligned<float>(offset);
        pack(folder.leaves, packed_single);
    } else {
        packed = Aligned<double>(offset);
        pack(folder.leaves, packed);
    }

    view.m = static_cast<int32_t>(m);
    view.K = static_cast<int32_t>(K);
    view.bits = bits_for(K);
    view.out_slots = slots;
    view.door_in_count = static_cast<int32_t>(doors_in.size());
    view.door_out_count = static_cast<int32_t>(doors_out.size());
    view.doors_in = doors_in.data();
    view.doors_out = doors_out.data();
    view.source = folder.in_ops.empty() ? source.data() : nullptr;
    view.in_ops = in_ops.data();
    view.out_ops = out_ops.data();
    view.leaves = leaves.data();
    view.in_count = static_cast<int32_t>(in_ops.size());
    view.out_count = static_cast<int32_t>(out_ops.size());
    view.leaf_count = static_cast<int32_t>(leaves.size());
    view.packed = packed.data.get();
    view.packed_single = packed_single.data.get();
}

template <class T>
void Table::pack(const std::vector<Block>& blocks, Aligned<T>& target) {
    const bool slices = view.mode == Mode::exact;
    const int32_t rows = slices ? kRowsExact : kRowsPlain;
    T* to = target.data.get();
    for (const Block& block : blocks) {
        for (int32_t first = 0; first < block.m; first += rows) {
            for (int32_t k = 0; k < block.K; ++k) {
                for (int32_t i = first; i < first + rows; ++i) {
                    *to++ = static_cast<T>(i < block.m ? block.h(i, k) : 0.0);
                    if (slices) *to++ = static_cast<T>(i < block.m ? block.l(i, k) : 0.0);
                }
            }
        }
    }
}

}  // namespace sk
