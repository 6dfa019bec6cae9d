// SPDX-License-Identifier: Apache-2.0
// Plain data that travels to the code of each instruction set.
#pragma once

#include <cstdint>

namespace sk {

// How a product is computed: exact slices in float64, plain float64 (float64 inputs), plain float32 (tier "fast").
enum class Mode { exact, f64, f32 };
enum class Dtype { f32, f16, bf16, f64 };

inline constexpr int kDataBits = 38;  // of data below their grid; reference/exact.py says why
inline constexpr int kLanes = 16;     // columns of data that one block carries through a product
inline constexpr int kRowsExact = 4;  // table rows per panel: two slices, two accumulators per row
inline constexpr int kRowsPlain = 8;  // table rows per panel: one slice, one accumulator per row
inline constexpr int kRun = 8;        // float64: terms added in a row, for a long row adds up errors;
inline constexpr int kGroup = 64;     // and terms whose runs are added in a row

// Slots (p, q) become (p + q, p - q).
struct Butterfly {
    int32_t p, q;
};

// Slots (p, q) become (a p + b q, c p + d q).
template <class T>
struct Rotation {
    int32_t p, q;
    T a, b, c, d;
};

// The way in and the way out of the slots, joined with the outermost butterflies: values `a` and `b` of the data go to
// slots (p, q), or slots (p, q) come out as results (a, b). Without a partner q = b = -1.
struct Door {
    int32_t p, q, a, b;
};

// The way out for one result alone: slot p, plus `sign` times slot q; without a partner q = p and sign = 0.
struct Exit {
    int32_t p, q;
    double sign;
};

// A dense block of a folded table: slots [out, out + m) get its product with slots [in, in + K). m is whole panels.
struct Leaf {
    int32_t in, K, out, m;
    int64_t offset;  // of its first panel
};

// A table whose product is: data into slots, butterflies, rotations, dense leaves, rotations, butterflies, results out of
// slots. On slices every step but rotations is exact, so the folded product has the bits of the plain one.
struct Folded {
    Mode mode;
    int32_t m, K, bits, in_slots, out_slots, door_in_count, door_out_count, in_count, out_count, leaf_count;
    const Door *doors_in, *doors_out;
    const Exit* exits;  // of every result
    const Butterfly *in_ops, *out_ops;  // between the doors and the leaves
    int32_t rotations_in_count, rotations_out_count;
    const Rotation<float> *rotations_in, *rotations_out;  // f32: those of a factorised cosine transform
    const Rotation<double> *long_rotations_in, *long_rotations_out;  // f64: the same
    const int32_t* source;       // slot -> index of the data, null when a butterfly or a rotation mixes them
    const Leaf* leaves;
    const double* packed;        // exact: panels [K][4][2], high and low; f64: panels [K][8]
    const float* packed_single;  // f32: panels [K][8]

    // Exact only. Two tables that together nearly give its product: high + low in float64, and low in float32.
    const Folded *plain, *low;
    const float* slices;      // [2][m][padded K], unfolded, for single elements
    double norm, low_norm;    // the largest 2-norm of a row of high + low, and of low
    double rounding;          // |plain product - product with high + low| <= rounding * 2-norm of the data
    const Folded* quick;      // a cosine transform's factorised product in float64, less near; else null
    double quick_rounding;
    bool synthesis;           // the transform leads from the spectrum
    const Folded* coarse;     // a cosine map's to a finer grid: its analysis, to which the finer synthesis, quick, belongs; else null
    double coarse_rounding;
};

// Planes in memory. Plane p of sample b lies at plane_offset; element (i, j) of it row(i) + column(j) further on.
struct Planes {
    void* data = nullptr;
    Dtype dtype = Dtype::f32;
    int64_t samples = 0, outer = 0, inner = 0, rows = 0, columns = 0, patch_rows = 1, patch_columns = 1;
    int64_t stride[7] = {};  // elements: sample, outer, inner, row / patch, row % patch, column / patch, column % patch
};

struct Term {
    const Folded* rows = nullptr;
    const Folded* columns = nullptr;
};

// y = alpha (M_r X M_c^T + beta (N_r E N_c^T)) + gamma E + 0 for every plane. Or, when `spectral` (tier "fast"): M is the
// analysis on the coarse grid, its result fills the corner of beta E, and y = alpha (N_r [..] N_c^T).
struct Job {
    Mode mode = Mode::exact;
    bool spectral = false;
    Planes out, x, other;
    bool has_other = false;   // E is a tensor
    bool has_second = false;  // there is a second term; its E is `other` or drawn from seeds
    Term term[2];
    int64_t corner_rows = 0, corner_columns = 0;  // E is zero there in the second term
    const int64_t* seeds = nullptr;               // one per sample, or null: base_seed + sample
    int64_t base_seed = 0;
    uint32_t stream = 0;
    const double* weights = nullptr;  // alpha, beta, gamma
    int64_t weight_stride = 0;        // 3 when every sample has its own
};

// What lies between the two products of a term.
struct Half {
    void* product;  // [column][row of the first product]
    // Exact: the data of the first product [column][padded K]; how far a column of it may lie from the contract's; and how
    // its data are cut.
    float* data;
    double *error, *shift, *finest;
};

// What one thread works with; each pointer holds as many blocks of kLanes as the largest table has slots.
struct Scratch {
    double *in, *high, *low, *main, *cross, *first, *second;
};

}  // namespace sk
