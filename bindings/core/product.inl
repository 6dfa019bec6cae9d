// SPDX-License-Identifier: Apache-2.0
// A folded table times a block of 16 lanes: what is summed over runs down the block, and butterflies, rotations and grids
// are plain vector operations.

template <class T>
constexpr int kVectors = kLanes * static_cast<int>(sizeof(T)) / SK_VECTOR_BYTES;

template <class T>
inline V<T>* vectors(T* run) {
    return reinterpret_cast<V<T>*>(run);
}
template <class T>
inline const V<T>* vectors(const T* run) {
    return reinterpret_cast<const V<T>*>(run);
}
template <class T>
inline auto at(T* block, int64_t index) {
    return vectors(block + index * kLanes);
}

template <class T>
inline void butterflies(const Butterfly* ops, int32_t count, T* slots) {
    for (int32_t n = 0; n < count; ++n) {
        V<T>* const p = at(slots, ops[n].p);
        V<T>* const q = at(slots, ops[n].q);
        for (int v = 0; v < kVectors<T>; ++v) {
            const V<T> a = p[v], b = q[v];
            p[v] = a + b;
            q[v] = a - b;
        }
    }
}

// Data, rows of 16 that are `stride` apart, into the slots, and results out of them.
template <class T>
inline void enter(const Folded& table, const T* data, int64_t stride, T* slots) {
    for (int32_t n = 0; n < table.door_in_count; ++n) {
        const Door& door = table.doors_in[n];
        for (int v = 0; v < kVectors<T>; ++v) {
            const V<T> a = vectors(data + door.a * stride)[v];
            if (door.q < 0) {
                at(slots, door.p)[v] = a;
                continue;
            }
            const V<T> b = vectors(data + door.b * stride)[v];
            at(slots, door.p)[v] = a + b;
            at(slots, door.q)[v] = a - b;
        }
    }
}

template <class T>
inline void leave(const Folded& table, const T* slots, T* result) {
    for (int32_t n = 0; n < table.door_out_count; ++n) {
        const Door& door = table.doors_out[n];
        for (int v = 0; v < kVectors<T>; ++v) {
            const V<T> a = at(slots, door.p)[v];
            if (door.q < 0) {
                at(result, door.a)[v] = a;
                continue;
            }
            const V<T> b = at(slots, door.q)[v];
            at(result, door.a)[v] = a + b;
            at(result, door.b)[v] = a - b;
        }
    }
}

// Rows of the data known to be zero at the start of a leaf, when no butterfly mixes them with others.
inline int32_t zeros_of(const Folded& table, const Leaf& leaf, int64_t zero_rows) {
    if (!table.source) return 0;
    int32_t skip = 0;
    while (skip < leaf.K && table.source[leaf.in + skip] < zero_rows) ++skip;
    return skip;
}

inline const Rotation<float>* rotations_in(const Folded& table, float) { return table.rotations_in; }
inline const Rotation<float>* rotations_out(const Folded& table, float) { return table.rotations_out; }
inline const Rotation<double>* rotations_in(const Folded& table, double) { return table.long_rotations_in; }
inline const Rotation<double>* rotations_out(const Folded& table, double) { return table.long_rotations_out; }
inline const float* panels(const Folded& table, float) { return table.packed_single; }
inline const double* panels(const Folded& table, double) { return table.packed; }

// From the slots of the data to those of the results, in the arithmetic of T; without what happens at the doors.
template <class T>
void between_doors(const Folded& table, T* slots, int64_t zero_rows, T* out) {
    butterflies(table.in_ops, table.in_count, slots);
    rotate(rotations_in(table, T()), table.rotations_in_count, slots);
    for (int32_t n = 0; n < table.leaf_count; ++n) {
        const Leaf& leaf = table.leaves[n];
        gemm(panels(table, T()) + leaf.offset, slots + leaf.in * kLanes, leaf.K, leaf.m / kRowsPlain,
             zeros_of(table, leaf, zero_rows), out + leaf.out * kLanes);
    }
    rotate(rotations_out(table, T()), table.rotations_out_count, out);
    butterflies(table.out_ops, table.out_count, out);
}

// result [m][16] = table times the block `data` [K][16].
template <class T>
void product(const Folded& table, const T* data, int64_t stride, int64_t zero_rows, const Scratch& s, T* result) {
    T *const slots = reinterpret_cast<T*>(s.high), *const out = reinterpret_cast<T*>(s.main);
    enter(table, data, stride, slots);
    between_doors(table, slots, zero_rows, out);
    leave(table, out, result);
}

// The same for rows that come from take(row, vectors), into the slots.
template <class Take>
inline bool enter_from(const Folded& table, const Take& take, double* slots) {
    for (int32_t n = 0; n < table.door_in_count; ++n) {
        const Door& door = table.doors_in[n];
        V<double> a[kVectors<double>], b[kVectors<double>];
        if (!take(door.a, a) || (door.q >= 0 && !take(door.b, b))) return false;
        for (int v = 0; v < kVectors<double>; ++v) {
            at(slots, door.p)[v] = door.q < 0 ? a[v] : a[v] + b[v];
            if (door.q >= 0) at(slots, door.q)[v] = a[v] - b[v];
        }
    }
    return true;
}

inline V<double> result_of(const Folded& table, const double* out, int64_t row, int v) {
    const Exit& exit = table.exits[row];
    return at(out, exit.p)[v] + exit.sign * at(out, exit.q)[v];
}

// Bits of the largest magnitude in each lane: for numbers of one sign the order of the bits is that of the values.
inline void largest(const double* data, int64_t stride, int64_t count, int64_t (&result)[kLanes]) {
    using I = V<int64_t>;
    I most[kVectors<double>] = {};
    const I magnitude = I{} + INT64_MAX;
    for (int64_t k = 0; k < count; ++k) {
        for (int v = 0; v < kVectors<double>; ++v) {
            const I bits = reinterpret_cast<I>(vectors(data + k * stride)[v]) & magnitude;
            most[v] = bits > most[v] ? bits : most[v];
        }
    }
    __builtin_memcpy(result, most, sizeof(result));
}

inline bool finite(const double* data, int64_t count) {
    int64_t bits[kLanes];
    largest(data, kLanes, count, bits);
    bool all = true;
    for (int i = 0; i < kLanes; ++i) all = all && bits[i] < 0x7FF0000000000000;
    return all;
}

inline bool finite(const float* data, int64_t count) {
    V<int32_t> most = {};
    for (int64_t k = 0; k < count * kVectors<float>; ++k) {
        const V<int32_t> bits = reinterpret_cast<V<int32_t>>(vectors(data)[k]) & INT32_MAX;
        most = bits > most ? bits : most;
    }
    bool all = true;
    for (int v = 0; v < SK_VECTOR_BYTES / 4; ++v) all = all && most[v] < 0x7F800000;
    return all;
}

// The shift that keeps `bits` bits of a line, from the bits of its largest magnitude.
inline double shift_of(int64_t largest_bits, int bits) {
    const int64_t exponent = largest_bits == 0 ? 1023 : (largest_bits >> 52) + 1;
    const int64_t shift = ((exponent + 52 - bits) << 52) | 0x8000000000000;
    double result;
    __builtin_memcpy(&result, &shift, 8);
    return result;
}

struct Cut {
    alignas(64) double shift[kLanes], finest[kLanes];

    void set(const int64_t (&largest_bits)[kLanes], int bits) {
        for (int i = 0; i < kLanes; ++i) {
            shift[i] = shift_of(largest_bits[i], bits);
            finest[i] = shift_of(largest_bits[i], kDataBits);
        }
    }
};

// The contract's product with slices, rounded where they meet; rows of `data` are `stride` apart.
void product_of_slices(const Folded& table, const double* data, int64_t stride, int64_t zero_rows, const Cut& grids,
                       const Scratch& s, double* result) {
    using D = V<double>;
    using I = V<int64_t>;
    I remains = {};
    for (int32_t n = 0; n < table.door_in_count; ++n) {
        const Door& door = table.doors_in[n];
        for (int v = 0; v < kVectors<double>; ++v) {
            const D c = *(at(grids.shift, 0) + v), f = *(at(grids.finest, 0) + v);
            D a = vectors(data + door.a * stride)[v], high, low;
            cut(a, high, low, c, f);
            remains |= reinterpret_cast<I>(low);
            if (door.q >= 0) {
                D b = vectors(data + door.b * stride)[v], other_high, other_low;
                cut(b, other_high, other_low, c, f);
                remains |= reinterpret_cast<I>(other_low);
                at(s.high, door.q)[v] = high - other_high;
                at(s.low, door.q)[v] = low - other_low;
                high += other_high;
                low += other_low;
            }
            at(s.high, door.p)[v] = high;
            at(s.low, door.p)[v] = low;
        }
    }
    bool one_slice = true;
    for (int v = 0; v < SK_VECTOR_BYTES / 8; ++v) one_slice = one_slice && (remains[v] & INT64_MAX) == 0;
    butterflies(table.in_ops, table.in_count, s.high);
    if (!one_slice) butterflies(table.in_ops, table.in_count, s.low);
    for (int32_t n = 0; n < table.leaf_count; ++n) {
        const Leaf& leaf = table.leaves[n];
        const int64_t skip = zeros_of(table, leaf, zero_rows), in = leaf.in * kLanes, out = leaf.out * kLanes;
        const double* const packed = table.packed + leaf.offset;
        if (one_slice) {
            gemm_exact_one(packed, s.high + in, leaf.K, leaf.m / kRowsExact, skip, s.main + out, s.cross + out);
        } else {
            gemm_exact(packed, s.high + in, s.low + in, leaf.K, leaf.m / kRowsExact, skip, s.main + out, s.cross + out);
        }
    }
    butterflies(table.out_ops, table.out_count, s.main);
    butterflies(table.out_ops, table.out_count, s.cross);
    for (int32_t n = 0; n < table.door_out_count; ++n) {
        const Door& door = table.doors_out[n];
        for (int v = 0; v < kVectors<double>; ++v) {
            const D m = at(s.main, door.p)[v], c = at(s.cross, door.p)[v];
            if (door.q < 0) {
                at(result, door.a)[v] = m + c;
                continue;
            }
            const D other_m = at(s.main, door.q)[v], other_c = at(s.cross, door.q)[v];
            at(result, door.a)[v] = (m + other_m) + (c + other_c);
            at(result, door.b)[v] = (m - other_m) + (c - other_c);
        }
    }
}
