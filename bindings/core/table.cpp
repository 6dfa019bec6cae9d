// SPDX-License-Identifier: Apache-2.0
#include "table.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

#include "folder.hpp"

namespace sk {

int bits_for(int64_t length) {
    const int ceil_log2 = std::bit_width(static_cast<uint64_t>(length - 1));
    return std::min(22, (52 - ceil_log2) / 2);
}

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