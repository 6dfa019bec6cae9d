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

constexpr int32_t kSmallest = 12;         // blocks with a side below this are not worth a butterfly

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

}  // namespace

struct Folder {
    std::vector<Rotation<double>> rotations_in, rotations_out;
    std::vector<Butterfly> in_ops, out_ops;
    std::vector<Block> leaves;
    std::size_t outermost_in = 0;         // the outermost butterflies of the input are those before this one
    std::size_t outermost_out = SIZE_MAX;  // and of the output those from this one on

    // A bound for the float64 product with the folded table, per unit of the 2-norm of the data, times 2^53. A term of a
    // leaf's sum is rounded with every sum it is part of. A butterfly at the input, which at most doubles the square of the
    // norm, is exact on data of 38 bits; one at the output adds two numbers of disjoint inputs and rounds once.
    double rounding(int32_t m, int32_t K) const {
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

    // How often term k of a sum of K is rounded by the micro-kernel, which joins runs and groups of runs.
    static double roundings(int32_t k, int32_t K) {
        const auto later = [](int32_t number, int32_t count) { return count - std::max(number, 1); };
        const int32_t run = k / kRun, group = k / kGroup, end = std::min(K, (group + 1) * kGroup);
        const int32_t runs = (end - group * kGroup + kRun - 1) / kRun, terms = std::min(end, (run + 1) * kRun) - run * kRun;
        return 1 + later(k % kRun, terms) + later(run - group * kGroup / kRun, runs) + later(group, (K + kGroup - 1) / kGroup);
    }

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

namespace {

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

void split_table(int64_t K, std::vector<double>& high, std::vector<double>& low) {
    double largest = 0;
    for (const double v : high) largest = std::max(largest, std::fabs(v));
    const double shift = std::ldexp(1.5 * grid_above(largest), 52 - bits_for(K));
    const double finer = std::ldexp(shift, -bits_for(K));
    for (std::size_t i = 0; i < high.size(); ++i) {
        const double value = high[i];
        high[i] = (value + shift) - shift;
        low[i] = ((value - high[i]) + finer) - finer;
    }
}

Table::Table(Mode mode, int64_t m, int64_t K, const double* values) {
    const std::size_t count = static_cast<std::size_t>(m) * K;
    std::vector<double> high(values, values + count), low(count, 0.0);
    view.mode = mode;
    if (mode == Mode::exact) {
        split_table(K, high, low);
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
    if (view.mode == Mode::exact) certify(all);
    Folder folder;
    folder.fold(std::move(all), true);
    lay_out(m, K, folder);
    if (view.mode == Mode::f64) view.rounding = 0x1p-53 * folder.rounding(view.m, view.K);
}

namespace {

// Sides from which on a factorised transform is the shorter product.
constexpr int32_t kShortest = 64;

// Entry (k, j) of the cosine basis, within some roundings.
double cosine(int32_t n, int32_t k, int32_t j) {
    return std::sqrt((k == 0 ? 1.0 : 2.0) / n) * std::cos(3.14159265358979323846 * ((2 * j + 1) * int64_t{k} % (4 * n)) / (2 * n));
}

// Whether a table looks like T, T^T or T_m^T[:, :K] T_K of the cosine basis; distance() makes sure of it.
enum class Look { none, analysis, synthesis, up };

Look look_of(const Block& all) {
    const auto like = [&](const auto& entry) {
        for (const int32_t j : {0, all.K / 3, all.K - 1}) {
            if (std::fabs(all.h(1, j) - entry(1, j)) > 1e-5) return false;
        }
        return true;
    };
    if (std::min(all.m, all.K) < kShortest / 2 || all.m < kShortest || all.m % 2 != 0 || all.K % 2 != 0) return Look::none;
    if (all.m < all.K) return Look::none;
    if (all.m > all.K) {
        return like([&](int32_t i, int32_t j) {
            double sum = 0;
            for (int32_t k = 0; k < all.K; ++k) sum += cosine(all.m, k, i) * cosine(all.K, k, j);
            return sum;
        }) ? Look::up : Look::none;
    }
    if (like([&](int32_t i, int32_t j) { return cosine(all.m, i, j); })) return Look::analysis;
    return like([&](int32_t i, int32_t j) { return cosine(all.m, j, i); }) ? Look::synthesis : Look::none;
}

// Sixteen numbers that went through the steps of a product, with bounds of their rounding errors in units of 2^-53.
struct Traced {
    double value[kLanes] = {}, error[kLanes] = {};

    // += factor * other, rounded `times` times.
    void add(double factor, const Traced& other, double times) {
        for (int i = 0; i < kLanes; ++i) {
            value[i] += factor * other.value[i];
            error[i] += std::fabs(factor) * (other.error[i] + times * std::fabs(other.value[i]));
        }
    }
};

void turn(std::vector<Traced>& slots, int32_t p, int32_t q, double a, double b, double c, double d, double times) {
    const Traced x = slots[p], y = slots[q];
    slots[p] = slots[q] = {};
    slots[p].add(a, x, times);
    slots[p].add(b, y, times);
    slots[q].add(c, x, times);
    slots[q].add(d, y, times);
}

// A factorised product in float64, for columns of data; where there are fewer of them, zeros follow.
std::vector<Traced> traced(const Folded& table, std::vector<Traced> data) {
    data.resize(table.K);
    std::vector<Traced> in(table.K), out(table.out_slots), result(table.m);
    for (int32_t n = 0; n < table.door_in_count; ++n) {
        const Door& door = table.doors_in[n];
        in[door.p] = data[door.a];
        if (door.q < 0) continue;
        in[door.q] = data[door.b];
        turn(in, door.p, door.q, 1, 1, 1, -1, 1);
    }
    for (int32_t n = 0; n < table.in_count; ++n) turn(in, table.in_ops[n].p, table.in_ops[n].q, 1, 1, 1, -1, 1);
    for (int32_t n = 0; n < table.rotations_in_count; ++n) {
        const Rotation<double>& r = table.long_rotations_in[n];
        turn(in, r.p, r.q, r.a, r.b, r.c, r.d, 2);
    }
    for (int32_t n = 0; n < table.leaf_count; ++n) {
        const Leaf& leaf = table.leaves[n];
        for (int32_t i = 0; i < leaf.m; ++i) {
            const double* const row = table.packed + leaf.offset + static_cast<int64_t>(i / kRowsPlain) * leaf.K * kRowsPlain + i % kRowsPlain;
            for (int32_t k = 0; k < leaf.K; ++k) out[leaf.out + i].add(row[k * kRowsPlain], in[leaf.in + k], Folder::roundings(k, leaf.K));
        }
    }
    for (int32_t n = 0; n < table.rotations_out_count; ++n) {
        const Rotation<double>& r = table.long_rotations_out[n];
        turn(out, r.p, r.q, r.a, r.b, r.c, r.d, 2);
    }
    for (int32_t n = 0; n < table.out_count; ++n) turn(out, table.out_ops[n].p, table.out_ops[n].q, 1, 1, 1, -1, 1);
    for (int32_t n = 0; n < table.door_out_count; ++n) {
        const Door& door = table.doors_out[n];
        if (door.q >= 0) {
            turn(out, door.p, door.q, 1, 1, 1, -1, 1);
            result[door.b] = out[door.q];
        }
        result[door.a] = out[door.p];
    }
    return result;
}

// |quick product - product with `values` [m, K]| <= distance * 2-norm of the data: unit vectors go through the steps; where
// each comes out tells an entry of what is computed, and the bounds of their errors add up for any data. Two products one
// after the other when there is a `coarse` one.
double distance(const Folded& table, const Folded* coarse, const std::vector<double>& values) {
    const int32_t K = coarse ? coarse->K : table.K;
    std::vector<double> squares(table.m, 0.0);
    for (int32_t first = 0; first < K; first += kLanes) {
        std::vector<Traced> data(K);
        for (int i = 0; i < kLanes && first + i < K; ++i) data[first + i].value[i] = 1;
        const std::vector<Traced> found = traced(table, coarse ? traced(*coarse, std::move(data)) : std::move(data));
        for (int32_t i = 0; i < table.m; ++i) {
            for (int lane = 0; lane < kLanes && first + lane < K; ++lane) {
                const double apart = std::fabs(found[i].value[lane] - values[static_cast<std::size_t>(i) * K + first + lane]);
                const double bound = apart + 2 * 0x1p-53 * found[i].error[lane];
                squares[i] += bound * bound;
            }
        }
    }
    return std::sqrt(*std::max_element(squares.begin(), squares.end()));
}

}  // namespace

// What stands for the product with slices, how near it comes, and what single elements are computed from.
void Table::certify(const Block& all) {
    const int64_t length = (all.K + kLanes - 1) / kLanes * kLanes;
    slices = Aligned<float>(2 * static_cast<std::size_t>(all.m) * length);
    float* to = slices.data.get();
    for (const std::vector<double>* const slice : {&all.high, &all.low}) {
        for (int32_t i = 0; i < all.m; ++i, to += length) {
            const auto row = slice->begin() + static_cast<std::ptrdiff_t>(i) * all.K;
            std::fill(std::copy(row, row + all.K, to), to + length, 0.0f);
        }
    }
    std::vector<double> whole(all.high.size());
    double norm = 0, low_norm = 0;
    for (int32_t i = 0; i < all.m; ++i) {
        double sum = 0, low_sum = 0;
        for (int32_t k = 0; k < all.K; ++k) {
            const double value = all.h(i, k) + all.l(i, k), low = all.l(i, k);
            whole[static_cast<std::size_t>(i) * all.K + k] = value;
            sum += value * value;
            low_sum += low * low;
        }
        norm = std::max(norm, std::sqrt(sum));
        low_norm = std::max(low_norm, std::sqrt(low_sum));
    }
    view.norm = norm * (1 + 0x1p-30);
    view.low_norm = low_norm * (1 + 0x1p-30);
    plain = std::make_unique<Table>(Mode::f64, all.m, all.K, whole.data());
    low = std::make_unique<Table>(Mode::f32, all.m, all.K, all.low.data());
    view.plain = &plain->view;
    view.low = &low->view;
    view.rounding = plain->view.rounding;
    const Look look = look_of(all);
    if (look == Look::none) return;
    auto transform = std::make_unique<Table>(fast_dct(Mode::f64, all.m, look != Look::analysis));
    if (look == Look::up) {
        coarse = std::make_unique<Table>(fast_dct(Mode::f64, all.K, false));
        view.coarse = &coarse->view;
        view.coarse_rounding = distance(transform->view, &coarse->view, whole);
        return;
    }
    quick = std::move(transform);
    view.quick = &quick->view;
    view.quick_rounding = distance(quick->view, nullptr, whole);
    view.synthesis = look == Look::synthesis;
}

namespace {

// Rotations of indices become rotations of slots.
template <class T>
std::vector<Rotation<T>> between(const std::vector<Rotation<double>>& steps, const std::vector<int32_t>& slot_of) {
    std::vector<Rotation<T>> result;
    for (const Rotation<double>& r : steps) {
        result.push_back({slot_of[r.p], slot_of[r.q], static_cast<T>(r.a), static_cast<T>(r.b), static_cast<T>(r.c), static_cast<T>(r.d)});
    }
    return result;
}

}  // namespace

void Table::lay_out(int64_t m, int64_t K, const Folder& folder) {
    const int32_t parts = view.mode == Mode::exact ? 2 : 1, panel = view.mode == Mode::exact ? kRowsExact : kRowsPlain;
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
        offset += static_cast<int64_t>(padded) * block.K * parts;
    }
    doors_in = doors(folder.in_ops, 0, folder.outermost_in, slot_in);
    doors_out = doors(folder.out_ops, std::min(folder.outermost_out, folder.out_ops.size()), folder.out_ops.size(), slot_out);
    exits.resize(m);
    for (const Door& door : doors_out) {
        exits[door.a] = {door.p, door.q < 0 ? door.p : door.q, door.q < 0 ? 0.0 : 1.0};
        if (door.q >= 0) exits[door.b] = {door.p, door.q, -1.0};
    }
    for (std::size_t n = folder.outermost_in; n < folder.in_ops.size(); ++n) {
        in_ops.push_back({slot_in[folder.in_ops[n].p], slot_in[folder.in_ops[n].q]});
    }
    for (std::size_t n = 0; n < std::min(folder.outermost_out, folder.out_ops.size()); ++n) {
        out_ops.push_back({slot_out[folder.out_ops[n].p], slot_out[folder.out_ops[n].q]});
    }
    if (view.mode == Mode::f32) {
        rotations_in = between<float>(folder.rotations_in, slot_in);
        rotations_out = between<float>(folder.rotations_out, slot_out);
        packed_single = Aligned<float>(offset);
        pack(folder.leaves, panel, false, packed_single);
    } else {
        long_rotations_in = between<double>(folder.rotations_in, slot_in);
        long_rotations_out = between<double>(folder.rotations_out, slot_out);
        packed = Aligned<double>(offset);
        pack(folder.leaves, panel, parts == 2, packed);
    }

    view.m = static_cast<int32_t>(m);
    view.K = static_cast<int32_t>(K);
    view.bits = bits_for(K);
    view.in_slots = static_cast<int32_t>(source.size());
    view.out_slots = slots;
    view.door_in_count = static_cast<int32_t>(doors_in.size());
    view.door_out_count = static_cast<int32_t>(doors_out.size());
    view.doors_in = doors_in.data();
    view.doors_out = doors_out.data();
    view.exits = exits.data();
    view.rotations_in = rotations_in.data();
    view.rotations_out = rotations_out.data();
    view.long_rotations_in = long_rotations_in.data();
    view.long_rotations_out = long_rotations_out.data();
    view.rotations_in_count = static_cast<int32_t>(folder.rotations_in.size());
    view.rotations_out_count = static_cast<int32_t>(folder.rotations_out.size());
    view.source = folder.in_ops.empty() && folder.rotations_in.empty() ? source.data() : nullptr;
    view.in_ops = in_ops.data();
    view.out_ops = out_ops.data();
    view.leaves = leaves.data();
    view.in_count = static_cast<int32_t>(in_ops.size());
    view.out_count = static_cast<int32_t>(out_ops.size());
    view.leaf_count = static_cast<int32_t>(leaves.size());
    view.packed = packed.data.get();
    view.packed_single = packed_single.data.get();
    view.slices = slices.data.get();
}

namespace {

// Cosine transforms by the factorisation of G. Plonka and M. Tasche, "Fast and numerically stable algorithms for discrete
// cosine transforms", Linear Algebra Appl. 394 (2005): every step is orthogonal up to a factor, so errors do not grow.
struct CosineFolder : Folder {
    static constexpr int32_t kDense = 32;  // blocks below this are multiplied out

    // DCT-II of `in` into `out`, times `scale`:  [II of the sums; IV of the differences] of the folded input.
    void second(const std::vector<int32_t>& in, const std::vector<int32_t>& out, double scale, bool top) {
        const auto n = static_cast<int32_t>(in.size());
        if (n < (n % 2 == 0 ? kDense : kSmallest)) return dense(in, out, scale, Part::second, n);
        std::vector<int32_t> sums, differences, even, odd;
        for (int32_t j = 0; j < n / 2; ++j) {
            if (top) {
                in_ops.push_back({in[j], in[n - 1 - j]});
            } else {
                rotations_in.push_back({in[j], in[n - 1 - j], 1, 1, 1, -1});
            }
            sums.push_back(in[j]);
            differences.push_back(in[n - 1 - j]);
            even.push_back(out[2 * j]);
            odd.push_back(out[2 * j + 1]);
        }
        if (top) outermost_in = in_ops.size();
        if (n % 2 != 0) {
            sums.push_back(in[n / 2]);
            even.push_back(out[n - 1]);
            dense(sums, even, scale, Part::even, n);
            return dense(differences, odd, scale, Part::odd, n);
        }
        second(sums, even, scale * std::sqrt(0.5), false);
        fourth(differences, odd, scale * std::sqrt(0.5));
    }

    // DCT-IV: rotations by (2 j + 1) pi / 4 m, two DCT-II of half the size, butterflies.
    void fourth(const std::vector<int32_t>& in, const std::vector<int32_t>& out, double scale) {
        const auto m = static_cast<int32_t>(in.size()), half = m / 2;
        if (m < kDense || m % 2 != 0) return dense(in, out, scale, Part::fourth, m);
        std::vector<int32_t> first, other, to_first(half), to_other(half);
        for (int32_t j = 0; j < half; ++j) {
            const double angle = 3.14159265358979323846 * (2 * j + 1) / (4 * m), sign = j % 2 == 0 ? 1 : -1;
            const double c = std::cos(angle), s = std::sin(angle);
            rotations_in.push_back({in[j], in[m - 1 - j], c, s, sign * s, -sign * c});
            first.push_back(in[j]);
            other.push_back(in[m - 1 - j]);
        }
        to_first[0] = out[0];
        to_other[0] = out[m - 1];
        for (int32_t k = 1; k < half; ++k) {
            to_first[k] = out[2 * k];
            to_other[half - k] = out[2 * k - 1];
        }
        second(first, to_first, scale, false);
        second(other, to_other, scale, false);
        const double r = std::sqrt(0.5);
        for (int32_t k = 1; k < half; ++k) rotations_out.push_back({out[2 * k], out[2 * k - 1], r, -r, r, r});
    }

    // DCT-II, its even or its odd rows on one half of the input, or DCT-IV, of `n` points.
    enum class Part { second, even, odd, fourth };

    void dense(const std::vector<int32_t>& in, const std::vector<int32_t>& out, double scale, Part part, int32_t n) {
        Block block;
        block.m = block.K = static_cast<int32_t>(in.size());
        block.in = in;
        block.out = out;
        const double pi = 3.14159265358979323846;
        for (int32_t i = 0; i < block.m; ++i) {
            const int32_t k = part == Part::even ? 2 * i : part == Part::odd ? 2 * i + 1 : i;
            for (int32_t j = 0; j < block.K; ++j) {
                // The angle within a turn, so that no digit is lost to its size.
                const int64_t turn = part == Part::fourth ? 8 * n : 4 * n;
                const int64_t number = (part == Part::fourth ? int64_t{2 * k + 1} : int64_t{k}) * (2 * j + 1) % turn;
                const double angle = 2 * pi * static_cast<double>(number) / static_cast<double>(turn);
                const double weight = std::sqrt((part != Part::fourth && k == 0 ? 1.0 : 2.0) / n);
                block.high.push_back(scale * weight * std::cos(angle));
            }
        }
        block.low.assign(block.high.size(), 0.0);
        leaves.push_back(std::move(block));
    }

    // The inverse: every step transposed, in the opposite order.
    void transpose() {
        std::vector<Rotation<double>> in(rotations_out.rbegin(), rotations_out.rend()), out(rotations_in.rbegin(), rotations_in.rend());
        for (std::vector<Rotation<double>>* const steps : {&in, &out}) {
            for (Rotation<double>& r : *steps) std::swap(r.b, r.c);
        }
        rotations_in = std::move(in);
        rotations_out = std::move(out);
        out_ops = std::move(in_ops);
        in_ops.clear();
        outermost_in = 0;
        outermost_out = 0;
        for (Block& block : leaves) {
            Block turned = block;
            for (int32_t i = 0; i < block.m; ++i) {
                for (int32_t j = 0; j < block.K; ++j) turned.high[static_cast<std::size_t>(j) * block.m + i] = block.h(i, j);
            }
            std::swap(turned.in, turned.out);
            block = std::move(turned);
        }
    }
};

}  // namespace

Table Table::fast_dct(Mode mode, int64_t n, bool synthesis) {
    Table table;
    table.view.mode = mode;
    std::vector<int32_t> all(n);
    std::iota(all.begin(), all.end(), 0);
    CosineFolder folder;
    folder.second(all, all, 1.0, true);
    if (synthesis) folder.transpose();
    table.lay_out(n, n, folder);
    return table;
}

template <class T>
void Table::pack(const std::vector<Block>& blocks, int32_t panel, bool apart, Aligned<T>& target) {
    T* to = target.data.get();
    for (const Block& block : blocks) {
        for (int32_t first = 0; first < block.m; first += panel) {
            for (int32_t k = 0; k < block.K; ++k) {
                for (int32_t i = first; i < first + panel; ++i) {
                    const double high = i < block.m ? block.h(i, k) : 0.0, low = i < block.m ? block.l(i, k) : 0.0;
                    *to++ = static_cast<T>(apart ? high : high + low);
                    if (apart) *to++ = static_cast<T>(low);
                }
            }
        }
    }
}

}  // namespace sk
