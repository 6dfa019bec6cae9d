// SPDX-License-Identifier: Apache-2.0
// What bounds the float64 products that stand for exact ones.
#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "folder.hpp"
#include "table.hpp"

namespace sk {
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
            for (int32_t k = 0; k < leaf.K; ++k) out[leaf.out + i].add(row[k * kRowsPlain], in[leaf.in + k], roundings(k, leaf.K));
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

}  // namespace sk
