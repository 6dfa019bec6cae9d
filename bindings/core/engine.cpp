// SPDX-License-Identifier: Apache-2.0
// Plane products, a block of 16 lanes at a time. In the first product the lanes are columns of the plane, in the second
// rows; so what is summed over always runs down a block, and grids, folds and weights are plain vector operations.
#include <cstddef>

#include "isa.hpp"
#include "job.hpp"

namespace sk {
namespace SK_ISA {
namespace {

#include "convert.inl"
#include "address.inl"
#include "noise.inl"

template <class T>
struct Vector {
    typedef T Type __attribute__((vector_size(SK_VECTOR_BYTES)));
};
template <class T>
using V = typename Vector<T>::Type;
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

// Data into the slots, and results out of them, where there is one slice only.
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

// 1.5 * 2^(52 - B) * grid, and the same with all bits of data for B; grid is the power of two above the largest magnitude,
// 1 where that is zero.
inline void shifts(const int64_t (&bits)[kLanes], int32_t width, double (&shift)[kLanes], double (&finest)[kLanes]) {
    for (int i = 0; i < kLanes; ++i) {
        const int64_t exponent = bits[i] == 0 ? 1023 : (bits[i] >> 52) + 1;
        const int64_t coarse = ((exponent + 52 - width) << 52) | 0x8000000000000;
        const int64_t fine = ((exponent + 52 - kDataBits) << 52) | 0x8000000000000;
        __builtin_memcpy(shift + i, &coarse, 8);
        __builtin_memcpy(finest + i, &fine, 8);
    }
}

// Data become two slices; with one shift per lane both ways.
template <class D>
inline void cut(D& value, D& high, D& low, const D& shift, const D& finest) {
    value = (value + finest) - finest;
    high = (value + shift) - shift;
    low = value - high;
}

// result = table times the block `data`, K rows of 16 that are `stride` apart, in float64 rounded where the slices meet; into `result` [m][16].
// Returns false when the data hold a NaN or an infinity.
bool product(const Folded& table, const double* data, int64_t stride, int64_t zero_rows, const Scratch& s, double* result) {
    using D = V<double>;
    using I = V<int64_t>;
    const bool exact = table.mode == Mode::exact;
    int64_t bits[kLanes];
    largest(data, stride, table.K, bits);
    bool finite = true;
    for (int i = 0; i < kLanes; ++i) finite = finite && bits[i] < 0x7FF0000000000000;
    if (!finite) return false;

    bool one_slice = true;
    if (exact) {
        alignas(64) double shift[kLanes], finest[kLanes];
        shifts(bits, table.bits, shift, finest);
        I remains = {};
        for (int32_t n = 0; n < table.door_in_count; ++n) {
            const Door& door = table.doors_in[n];
            for (int v = 0; v < kVectors<double>; ++v) {
                const D c = *(at(shift, 0) + v), f = *(at(finest, 0) + v);
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
        for (int v = 0; v < SK_VECTOR_BYTES / 8; ++v) one_slice = one_slice && (remains[v] & INT64_MAX) == 0;
    } else {
        enter(table, data, stride, s.high);
    }

    butterflies(table.in_ops, table.in_count, s.high);
    if (!one_slice) butterflies(table.in_ops, table.in_count, s.low);
    for (int32_t n = 0; n < table.leaf_count; ++n) {
        const Leaf& leaf = table.leaves[n];
        const int64_t skip = zeros_of(table, leaf, zero_rows), in = leaf.in * kLanes, out = leaf.out * kLanes;
        const double* const packed = table.packed + leaf.offset;
        if (!exact) {
            gemm(packed, s.high + in, leaf.K, leaf.m / kRowsPlain, skip, s.main + out);
        } else if (one_slice) {
            gemm_exact_one(packed, s.high + in, leaf.K, leaf.m / kRowsExact, skip, s.main + out, s.cross + out);
        } else {
            gemm_exact(packed, s.high + in, s.low + in, leaf.K, leaf.m / kRowsExact, skip, s.main + out, s.cross + out);
        }
    }
    butterflies(table.out_ops, table.out_count, s.main);
    if (exact) butterflies(table.out_ops, table.out_count, s.cross);
    if (!exact) {
        leave(table, s.main, result);
        return true;
    }
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
    return true;
}

bool product(const Folded& table, const float* data, int64_t stride, int64_t zero_rows, const Scratch& s, float* result) {
    float *const slots = reinterpret_cast<float*>(s.high), *const out = reinterpret_cast<float*>(s.main);
    enter(table, data, stride, slots);
    V<int32_t> most = {};
    for (int32_t k = 0; k < table.K * kVectors<float>; ++k) {
        const V<int32_t> bits = reinterpret_cast<V<int32_t>>(vectors(slots)[k]) & INT32_MAX;
        most = bits > most ? bits : most;
    }
    for (int v = 0; v < SK_VECTOR_BYTES / 4; ++v) {
        if (most[v] >= 0x7F800000) return false;
    }
    butterflies(table.in_ops, table.in_count, slots);
    rotate(table.rotations_in, table.rotations_in_count, slots);
    for (int32_t n = 0; n < table.leaf_count; ++n) {
        const Leaf& leaf = table.leaves[n];
        gemm(table.packed_single + leaf.offset, slots + leaf.in * kLanes, leaf.K, leaf.m / kRowsPlain,
             zeros_of(table, leaf, zero_rows), out + leaf.out * kLanes);
    }
    rotate(table.rotations_out, table.rotations_out_count, out);
    butterflies(table.out_ops, table.out_count, out);
    leave(table, out, result);
    return true;
}

// An 8 x 8 tile: three rounds of interleaving row i with row i + 4.
template <class T>
inline void transpose8(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
    typedef T W __attribute__((vector_size(8 * sizeof(T))));
    typedef T Unaligned __attribute__((vector_size(8 * sizeof(T)), aligned(sizeof(T)), may_alias));
    W a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = *reinterpret_cast<const Unaligned*>(from + i * from_stride);
    for (int round = 0; round < 3; ++round) {
        for (int i = 0; i < 4; ++i) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
            b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
        }
        for (int i = 0; i < 8; ++i) a[i] = b[i];
    }
    for (int i = 0; i < 8; ++i) *reinterpret_cast<Unaligned*>(to + i * to_stride) = a[i];
}

template <class T>
inline void transpose16(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
    for (int i = 0; i < kLanes; i += 8) {
        for (int j = 0; j < kLanes; j += 8) transpose8(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
    }
}

int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

#include "certified.inl"

template <class T>
void load_block(const Planes& p, int64_t plane, int64_t first, int64_t corner_rows, int corner_lanes, T* to) {
    const Run run = columns_from(p, first);
    const int64_t base = plane_offset(p, plane) + run.offset[0];
    reading(p, [&](const auto* data, auto read) {
        for (int64_t i = 0; i < p.rows; ++i) load_row(data + base + row_offset(p, i), run, read, to + i * kLanes);
    });
    for (int64_t i = 0; i < corner_rows; ++i) {
        for (int lane = 0; lane < corner_lanes; ++lane) to[i * kLanes + lane] = 0;
    }
}

template <class T>
void draw_block(const Job& job, int64_t plane, int64_t rows, int64_t first, int64_t corner_rows, int corner_lanes, T* to) {
    const int64_t per_sample = job.out.outer * job.out.inner, sample = plane / per_sample;
    const uint64_t seed = static_cast<uint64_t>(job.seeds ? job.seeds[sample] : job.base_seed + sample);
    const auto number = static_cast<uint32_t>(plane % per_sample);
    Words words;
    float values[kLanes];
    int64_t start = 0;
    if (corner_lanes == kLanes) {
        start = corner_rows;
        clear(to, start * kLanes);
    }
    for (int64_t group = start / 4; group * 4 < rows; ++group) {
        philox(seed, job.stream, number, static_cast<uint32_t>(group), static_cast<uint32_t>(first), words);
        for (int64_t i = group * 4 < start ? start : group * 4; i < group * 4 + 4 && i < rows; ++i) {
            deviates(words.word[i % 4], values);
            const int zero = i < corner_rows ? corner_lanes : 0;
            for (int lane = 0; lane < kLanes; ++lane) to[i * kLanes + lane] = lane < zero ? T(0) : static_cast<T>(values[lane]);
        }
    }
}

const double* weights_of(const Job& job, int64_t plane) {
    return job.weights + job.weight_stride * (plane / (job.out.outer * job.out.inner));
}

template <class T>
bool rows_of(const Job& job, int term, int64_t plane, int64_t block, Scratch& s, T* half, const T* spectrum) {
    const Folded& table = *job.term[term].rows;
    const int64_t first = block * kLanes;
    T *const in = reinterpret_cast<T*>(s.in), *const result = reinterpret_cast<T*>(s.first);
    int64_t zero_rows = 0;
    if (term == 0) {
        load_block(job.x, plane, first, 0, 0, in);
    } else {
        const int64_t inside = job.corner_columns - first;
        const int corner_lanes = static_cast<int>(inside < 0 ? 0 : inside < kLanes ? inside : kLanes);
        if (job.has_other) {
            load_block(job.other, plane, first, job.corner_rows, corner_lanes, in);
        } else {
            draw_block(job, plane, table.K, first, job.corner_rows, corner_lanes, in);
        }
        zero_rows = corner_lanes == kLanes && !job.spectral ? job.corner_rows : 0;
        if (job.spectral) {
            // The corner is replaced before the weight of the noise could touch it; a weight of zero hides any noise.
            const T beta = static_cast<T>(weights_of(job, plane)[1]);
            const int64_t width = padded(job.corner_columns);
            for (int64_t i = 0; i < table.K; ++i) {
                T* const row = in + i * kLanes;
                for (int lane = 0; lane < kLanes; ++lane) row[lane] = beta == 0 ? T(0) : beta * row[lane];
                if (i >= job.corner_rows) continue;
                for (int lane = 0; lane < corner_lanes; ++lane) row[lane] = spectrum[i * width + first + lane];
            }
        }
    }
    if (!product(table, in, kLanes, zero_rows, s, result)) return false;
    const int64_t height = padded(table.m);
    clear(result + table.m * kLanes, (height - table.m) * kLanes);
    for (int64_t i = 0; i < height; i += kLanes) transpose16(result + i * kLanes, kLanes, half + first * height + i, height);
    return true;
}

// Returns false when too much of a block cannot be settled by its certificate; without one it is always done.
template <class T>
bool columns_with(const Job& job, int64_t plane, int64_t block, Scratch& s, const T* const half[2], Certificate* certificate) {
    const int64_t first = block * kLanes, height = padded(job.out.rows), width = padded(job.out.columns);
    const double* const weights = weights_of(job, plane);
    const T alpha = static_cast<T>(weights[0]), beta = static_cast<T>(weights[1]), gamma = static_cast<T>(weights[2]);
    const bool second = job.has_second && beta != 0 && !job.spectral, added = job.has_other && gamma != 0;
    T* const y = reinterpret_cast<T*>(s.first);
    T* const n = reinterpret_cast<T*>(s.second);
    for (int term = job.spectral ? 1 : 0; term <= (second || job.spectral ? 1 : 0); ++term) {
        const Folded& table = *job.term[term].columns;
        T* const result = term == 0 || job.spectral ? y : n;
        const T* const data = half[term] + first;
        if (certificate) {
            Line& line = certificate->line[term];
            line.table = &table;
            line.data = reinterpret_cast<const double*>(data);
            line.stride = height;
            line.turned = term == 0 ? s.in : s.low;
            approximate(s, reinterpret_cast<double*>(result), line);
        } else {
            product(table, data, height, 0, s, result);
        }
        clear(result + table.m * kLanes, (width - table.m) * kLanes);
    }
    const int64_t out_base = plane_offset(job.out, plane), other_base = added ? plane_offset(job.other, plane) : 0;
    const int lanes = static_cast<int>(job.out.rows - first < kLanes ? job.out.rows - first : kLanes);
    alignas(64) T tile[kLanes * kLanes], extra[kLanes * kLanes];
    for (int64_t j = 0; j < width; j += kLanes) {
        T* const part = y + j * kLanes;
        for (int k = 0; k < kLanes; ++k) {
            for (int v = 0; v < kVectors<T>; ++v) {
                V<T>& value = at(part, k)[v];
                if (second) value = value + beta * at(n, j + k)[v];
                value = alpha * value;
            }
        }
        transpose16(part, kLanes, tile, kLanes);
        if (added) {
            const Run run = columns_from(job.other, j);
            reading(job.other, [&](const auto* data, auto read) {
                data += other_base + run.offset[0];
                for (int i = 0; i < lanes; ++i) load_row(data + row_offset(job.other, first + i), run, read, extra + i * kLanes);
            });
        }
        for (int i = 0; i < lanes; ++i) {
            for (int v = 0; v < kVectors<T>; ++v) {
                V<T>& value = at(tile, i)[v];
                if (added) value = value + gamma * at(extra, i)[v];
                value = value + T(0);
            }
        }
        const Run run = columns_from(job.out, j);
        if (certificate && !certificate->settle(reinterpret_cast<double*>(tile), lanes, j, run.count)) return false;
        writing<T>(job.out, [&](auto* data, auto write) {
            data += out_base + run.offset[0];
            for (int i = 0; i < lanes; ++i) store_row(data + row_offset(job.out, first + i), run, write, tile + i * kLanes);
        });
    }
    return true;
}

template <class T>
void columns_of(const Job& job, int64_t plane, int64_t block, Scratch& s, const T* const half[2]) {
    if (sizeof(T) == sizeof(double) && job.mode == Mode::exact) {
        const double* const weights = weights_of(job, plane);
        const bool second = job.has_second && weights[1] != 0, added = job.has_other && weights[2] != 0;
        if (!added && sane(weights[0]) && (!second || sane(weights[1]))) {
            Certificate certificate{weights[0], second ? weights[1] : 0, job.out.columns / 4, {}, false};
            if (columns_with(job, plane, block, s, half, &certificate)) return;
        }
    }
    columns_with(job, plane, block, s, half, static_cast<Certificate*>(nullptr));
}

template <class T>
void spectrum_of(const Job& job, int64_t block, Scratch& s, const T* half, T* spectrum) {
    const Folded& table = *job.term[0].columns;
    const int64_t first = block * kLanes, height = padded(job.term[0].rows->m), width = padded(table.m);
    T* const result = reinterpret_cast<T*>(s.first);
    product(table, half + first, height, 0, s, result);
    clear(result + table.m * kLanes, (width - table.m) * kLanes);
    for (int64_t j = 0; j < width; j += kLanes) transpose16(result + j * kLanes, kLanes, spectrum + first * width + j, width);
}

bool rows_entry(const Job& job, int term, int64_t plane, int64_t block, Scratch& s, void* half, const void* spectrum) {
    if (job.mode == Mode::f32) return rows_of(job, term, plane, block, s, static_cast<float*>(half), static_cast<const float*>(spectrum));
    return rows_of(job, term, plane, block, s, static_cast<double*>(half), static_cast<const double*>(spectrum));
}

void spectrum_entry(const Job& job, int64_t block, Scratch& s, const void* half, void* spectrum) {
    if (job.mode == Mode::f32) return spectrum_of(job, block, s, static_cast<const float*>(half), static_cast<float*>(spectrum));
    spectrum_of(job, block, s, static_cast<const double*>(half), static_cast<double*>(spectrum));
}

void columns_entry(const Job& job, int64_t plane, int64_t block, Scratch& s, const void* const half[2]) {
    if (job.mode == Mode::f32) {
        const float* const halves[2] = {static_cast<const float*>(half[0]), static_cast<const float*>(half[1])};
        return columns_of(job, plane, block, s, halves);
    }
    const double* const halves[2] = {static_cast<const double*>(half[0]), static_cast<const double*>(half[1])};
    columns_of(job, plane, block, s, halves);
}

#define SK_TEXT_OF(name) #name
#define SK_TEXT(name) SK_TEXT_OF(name)
#define SK_JOIN_OF(a, b) a##b
#define SK_JOIN(a, b) SK_JOIN_OF(a, b)

}  // namespace
}  // namespace SK_ISA

const Isa SK_JOIN(isa_, SK_ISA) = {SK_TEXT(SK_ISA), SK_VECTOR_BYTES, SK_ISA::rows_entry, SK_ISA::spectrum_entry,
                                   SK_ISA::columns_entry,
                                   SK_ISA::noise_rows, SK_ISA::forecast_span, SK_ISA::moments_span, SK_ISA::haar_columns,
                                   SK_ISA::split_rows, SK_ISA::merge_rows, SK_ISA::noise_level};

}  // namespace sk
