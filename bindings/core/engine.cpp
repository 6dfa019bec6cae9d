// SPDX-License-Identifier: Apache-2.0
// Plane products, a block of 16 lanes at a time. In the first product the lanes are columns of the plane, in the second
// rows; so what is summed over always runs down a block, and grids, folds and weights are plain vector operations.
#include <cstddef>

#include "isa.hpp"
#include "job.hpp"

namespace sk {
namespace SK_ISA {
namespace {

#include "vectors.inl"
#include "convert.inl"
#include "address.inl"
#include "noise.inl"

int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

#include "product.inl"

// One shuffle of the vectors a and b: their first halves (Part 0) or second halves (1) interleaved.
template <int Part, class W>
inline W interleaved(W a, W b) {
    constexpr int count = sizeof(W) / sizeof(a[0]), h = Part * count / 2;
    if constexpr (count == 2) return __builtin_shufflevector(a, b, h, h + 2);
    if constexpr (count == 4) return __builtin_shufflevector(a, b, h, h + 4, h + 1, h + 5);
    if constexpr (count == 8) return __builtin_shufflevector(a, b, h, h + 8, h + 1, h + 9, h + 2, h + 10, h + 3, h + 11);
}

// A square tile as wide as a vector, or 8: rounds of interleaving row i with the row half a tile on.
template <class T>
inline void transpose16(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
    constexpr int most = SK_VECTOR_BYTES / static_cast<int>(sizeof(T)), side = most < 8 ? most : 8;
    using W = typename Lanes<T, side>::Aligned;
    using Unaligned = typename Lanes<T, side>::Type;
    for (int row = 0; row < kLanes; row += side) {
        for (int column = 0; column < kLanes; column += side) {
            W a[side], b[side];
            for (int i = 0; i < side; ++i) a[i] = *reinterpret_cast<const Unaligned*>(from + (row + i) * from_stride + column);
            for (int round = 1; round < side; round *= 2) {
                for (int i = 0; i < side / 2; ++i) {
                    b[2 * i] = interleaved<0>(a[i], a[i + side / 2]);
                    b[2 * i + 1] = interleaved<1>(a[i], a[i + side / 2]);
                }
                for (int i = 0; i < side; ++i) a[i] = b[i];
            }
            for (int i = 0; i < side; ++i) *reinterpret_cast<Unaligned*>(to + (column + i) * to_stride + row) = a[i];
        }
    }
}

#include "certified.inl"

template <class T>
void load_block(const Planes& p, int64_t plane, int64_t first, int64_t corner_rows, int corner_lanes, T* to) {
    const Run run = columns_from(p, first);
    const int64_t base = plane_offset(p, plane) + run.offset[0];
    reading(p, [&](const auto* data, auto read) {
        for (int64_t i = 0; i < p.rows; ++i) {
            const auto* const row = data + base + row_offset(p, i);
            __builtin_prefetch(row + kLanes);  // the next block's: a stride this long no hardware foresees
            load_row(row, run, read, to + i * kLanes);
        }
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

// The data of a term's first product, columns [first, first + 16) of its plane, into `in` [rows][16]. Returns how many
// rows at their beginning are zero.
template <class T>
int64_t load_term(const Job& job, int term, int64_t plane, int64_t first, T* in, const T* spectrum) {
    if (term == 0) {
        load_block(job.x, plane, first, 0, 0, in);
        return 0;
    }
    const int64_t inside = job.corner_columns - first, rows = job.term[term].rows->K;
    const int corner_lanes = static_cast<int>(inside < 0 ? 0 : inside < kLanes ? inside : kLanes);
    if (job.spectral && weights_of(job, plane)[1] == 0) {
        clear(in, rows * kLanes);
    } else if (job.has_other) {
        load_block(job.other, plane, first, job.corner_rows, corner_lanes, in);
    } else {
        draw_block(job, plane, rows, first, job.corner_rows, corner_lanes, in);
    }
    if (!job.spectral) return corner_lanes == kLanes ? job.corner_rows : 0;
    // The corner is replaced before the weight of the noise could touch it.
    const T beta = static_cast<T>(weights_of(job, plane)[1]);
    const int64_t width = padded(job.corner_columns);
    for (int64_t i = 0; i < rows; ++i) {
        T* const row = in + i * kLanes;
        for (int lane = 0; lane < kLanes; ++lane) row[lane] = beta * row[lane];
        if (i >= job.corner_rows) continue;
        for (int lane = 0; lane < corner_lanes; ++lane) row[lane] = spectrum[i * width + first + lane];
    }
    return 0;
}

// Result [m][16] of a first product to where the second reads it.
template <class T>
void keep_rows(const Folded& table, int64_t first, T* result, T* half) {
    const int64_t height = padded(table.m);
    clear(result + table.m * kLanes, (height - table.m) * kLanes);
    for (int64_t i = 0; i < height; i += kLanes) transpose16(result + i * kLanes, kLanes, half + first * height + i, height);
}

template <class T>
bool rows_plain(const Job& job, int term, int64_t plane, int64_t block, Scratch& s, T* half, const T* spectrum) {
    const Folded& table = *job.term[term].rows;
    const int64_t first = block * kLanes;
    T *const in = reinterpret_cast<T*>(s.in), *const result = reinterpret_cast<T*>(s.first);
    const int64_t zero_rows = load_term(job, term, plane, first, in, spectrum);
    if (!finite(in, table.K)) return false;
    product(table, in, kLanes, zero_rows, s, result);
    keep_rows(table, first, result, half);
    return true;
}

bool rows_exact(const Job& job, int term, int64_t plane, int64_t block, Scratch& s, const Half& half, bool certified) {
    const Folded& table = *job.term[term].rows;
    const int64_t first = block * kLanes;
    const int64_t zero_rows = load_term(job, term, plane, first, s.in, static_cast<const double*>(nullptr));
    int64_t bits[kLanes];
    largest(s.in, kLanes, table.K, bits);
    bool all_finite = true;
    for (int i = 0; i < kLanes; ++i) all_finite = all_finite && bits[i] < 0x7FF0000000000000;
    if (!all_finite) return false;
    Cut grids;
    grids.set(bits, table.bits);
    if (certified) {
        first_certified(table, s.in, first, zero_rows, grids, s, half);
    } else {
        product_of_slices(table, s.in, kLanes, zero_rows, grids, s, s.first);
        keep_rows(table, first, s.first, static_cast<double*>(half.product));
    }
    return true;
}

// Elements [first row, + lanes) x [j, j + 16) of E, as [column][row].
template <class T>
void load_turned(const Planes& p, int64_t plane, int64_t first, int lanes, int64_t j, T* to) {
    const Run run = columns_from(p, j);
    alignas(64) T rows[kLanes * kLanes] = {};
    reading(p, [&](const auto* data, auto read) {
        data += plane_offset(p, plane) + run.offset[0];
        for (int i = 0; i < lanes; ++i) load_row(data + row_offset(p, first + i), run, read, rows + i * kLanes);
    });
    transpose16(rows, kLanes, to, kLanes);
}

// A tile [column][row] of results into rows [first, first + lanes), columns [j, j + 16) of the output.
template <class T>
void store_turned(const Planes& p, int64_t plane, int64_t first, int lanes, int64_t j, const T* tile) {
    const Run run = columns_from(p, j);
    alignas(64) T rows[kLanes * kLanes];
    transpose16(tile, kLanes, rows, kLanes);
    writing<T>(p, [&](auto* data, auto write) {
        data += plane_offset(p, plane) + run.offset[0];
        for (int i = 0; i < lanes; ++i) {
            auto* const row = data + row_offset(p, first + i);
            __builtin_prefetch(data + row_offset(p, first + kLanes + i), 1);  // the next block's
            store_row(row, run, write, rows + i * kLanes);
        }
    });
}

template <class T>
void columns_plain(const Job& job, int64_t plane, int64_t block, Scratch& s, const Half* halves) {
    const int64_t first = block * kLanes, height = padded(job.out.rows), width = padded(job.out.columns);
    const double* const weights = weights_of(job, plane);
    const T alpha = static_cast<T>(weights[0]), beta = static_cast<T>(weights[1]), gamma = static_cast<T>(weights[2]);
    const bool second = job.has_second && beta != 0 && !job.spectral, added = job.has_other && gamma != 0;
    T *const y = reinterpret_cast<T*>(s.first), *const n = reinterpret_cast<T*>(s.second);
    for (int term = job.spectral ? 1 : 0; term <= (second || job.spectral ? 1 : 0); ++term) {
        const Folded& table = *job.term[term].columns;
        T* const result = term == 0 || job.spectral ? y : n;
        product(table, static_cast<const T*>(halves[term].product) + first, height, 0, s, result);
        clear(result + table.m * kLanes, (width - table.m) * kLanes);
    }
    const int lanes = static_cast<int>(job.out.rows - first < kLanes ? job.out.rows - first : kLanes);
    alignas(64) T extra[kLanes * kLanes];
    for (int64_t j = 0; j < width; j += kLanes) {
        T* const part = y + j * kLanes;
        if (added) load_turned(job.other, plane, first, lanes, j, extra);
        for (int k = 0; k < kLanes; ++k) {
            for (int v = 0; v < kVectors<T>; ++v) {
                V<T>& value = at(part, k)[v];
                if (second) value = value + beta * at(n, j + k)[v];
                value = alpha * value;
                if (added) value = value + gamma * at(extra, k)[v];
                value = value + T(0);
            }
        }
        store_turned(job.out, plane, first, lanes, j, part);
    }
}

// Weights far from where float64 under- or overflows.
bool sane(double weight) {
    const double magnitude = weight < 0 ? -weight : weight;
    return magnitude > 0x1p-100 && magnitude < 0x1p100;
}

// One element in `kShare` may be computed from its slices before a block is computed from slices as a whole: such an
// element costs that many times what it costs in a block.
constexpr int64_t kShare = 8;
constexpr int64_t kAhead = 64;  // and so many more at the start, where a share says little

enum class Settled { done, first_products_open, results_open };

using Floats = typename Lanes<float, SK_VECTOR_BYTES / 8>::Aligned;
using Bits = typename Lanes<int32_t, SK_VECTOR_BYTES / 8>::Aligned;

// The second products of a block of 16 rows, their weights, and how far y may lie from the contract's.
struct Weighted {
    double alpha = 0, beta = 0, gamma = 0;
    bool by_slices = false;
    const Folded* products[2] = {};  // whose exits lead from the slots to a result; by slices the rows lie in order
    const double* slots[2] = {};
    alignas(64) double error[kLanes] = {};

    V<double> sum(int term, int64_t column, int v) const {
        return by_slices ? at(slots[term], column)[v] : result_of(*products[term], slots[term], column, v);
    }

    // y for columns [j, j + count), as float32 [column][row], and which bits of it the error leaves open.
    template <bool Second, bool Added>
    Bits tile(int64_t j, int count, const double* extra, float* to, Bits* open) const {
        Bits any = {};
        for (int k = 0; k < count; ++k) {
            for (int v = 0; v < kVectors<double>; ++v) {
                V<double> y = sum(0, j + k, v), doubt = at(error, 0)[v];
                if (Second) y = y + beta * sum(1, j + k, v);
                y = alpha * y;
                if (Added) {
                    // The rounding of this sum; those of the weights are in the error.
                    y = y + gamma * at(extra, k)[v];
                    if (!by_slices) doubt = doubt + 0x1p-51 * (y < 0 ? -y : y);
                }
                const Floats low = __builtin_convertvector((y - doubt) + 0.0, Floats), high = __builtin_convertvector((y + doubt) + 0.0, Floats);
                reinterpret_cast<Floats*>(to + k * kLanes)[v] = low;
                any |= open[k * kVectors<double> + v] = reinterpret_cast<Bits>(low) ^ reinterpret_cast<Bits>(high);
            }
        }
        return any;
    }
};

// Second products, weights and rounding. `certified` says whether the first products hold errors; with `by_slices` the
// second ones do not.
Settled columns_settled(const Job& job, int64_t plane, int64_t block, Scratch& s, const Half* halves, bool certified, bool by_slices) {
    const int64_t first = block * kLanes, height = padded(job.out.rows), width = padded(job.out.columns);
    const int lanes = static_cast<int>(job.out.rows - first < kLanes ? job.out.rows - first : kLanes);
    const double* const weights = weights_of(job, plane);
    Weighted y{weights[0], weights[1], weights[2], by_slices};
    const bool second = job.has_second && y.beta != 0, added = job.has_other && y.gamma != 0;
    double *const results[2] = {s.first, s.second}, *const turned[2] = {s.low, s.cross};
    // One synthesis for both terms: the analysis of the first joins the noise of the second.
    const Folded &up = *job.term[0].columns, *const fill = second ? job.term[1].columns : nullptr;
    const bool joined = !by_slices && up.coarse && fill && fill->quick && fill->synthesis && fill->m == up.m;
    Lines lines[2];
    for (int term = 0; term < (second ? 2 : 1); ++term) {
        const Folded& table = *job.term[term].columns;
        int64_t left = lanes * table.K / kShare;
        Lines& line = lines[term];
        line.rows = job.term[term].rows;
        line.columns = &table;
        line.half = halves + term;
        line.first = first;
        line.height = height;
        line.turned = turned[term];
        line.certified = certified;
        line.left = &left;
        const Folded& product = joined && term == 0 ? *table.coarse : table.quick ? *table.quick : *table.plain;
        const double rounding = joined && term == 0 ? table.coarse_rounding : table.quick ? table.quick_rounding : table.rounding;
        const auto join = [&](int64_t k, V<double>(&z)[kVectors<double>]) {
            if (!joined || term == 0) return;
            for (int v = 0; v < kVectors<double>; ++v) {
                z[v] = y.beta * z[v];
                if (k < up.K) z[v] += result_of(*up.coarse, results[0], k, v);
            }
        };
        if (!line.find_grids(lanes) || !line.enter_rounded(product, rounding, lanes, join, s.high)) return Settled::first_products_open;
        double* const into = joined && term == 1 ? s.main : results[term];
        if (by_slices) {
            product_of_slices(table, line.data(), height, 0, line.grids, s, into);
        } else {
            between_doors(product, s.high, 0, into);
            const double weight = y.alpha * (term == 0 ? 1 : y.beta);
            for (int i = 0; i < lanes; ++i) y.error[i] += (weight < 0 ? -weight : weight) * line.error[i] * (1 + 0x1p-20);
        }
        y.products[joined ? 0 : term] = &product;
        y.slots[joined ? 0 : term] = into;
    }
    const bool apart = second && !joined;

    int64_t left = kAhead;
    alignas(64) double extra[kLanes * kLanes];
    alignas(64) float tile[kLanes * kLanes];
    for (int64_t j = 0; j < width; j += kLanes) {
        const int count = static_cast<int>(job.out.columns - j < kLanes ? job.out.columns - j : kLanes);
        left += lanes * count / kShare;
        if (added) load_turned(job.other, plane, first, lanes, j, extra);
        Bits open[kLanes * kVectors<double>];
        const Bits any = apart ? added ? y.tile<true, true>(j, count, extra, tile, open) : y.tile<true, false>(j, count, extra, tile, open)
                         : added ? y.tile<false, true>(j, count, extra, tile, open) : y.tile<false, false>(j, count, extra, tile, open);
        clear(tile + count * kLanes, (kLanes - count) * kLanes);
        for (int n = 0; nonzero(any) && n < count * kVectors<double>; ++n) {
            if (!nonzero(open[n])) continue;
            for (int i = 0; i < SK_VECTOR_BYTES / 8; ++i) {
                const int place = n * (SK_VECTOR_BYTES / 8) + i, lane = place % kLanes;
                if (open[n][i] == 0 || lane >= lanes) continue;
                if (--left < 0) return Settled::results_open;
                const int64_t column = j + place / kLanes;
                double exact = lines[0].exact(lane, column);
                if (second) exact = exact + y.beta * lines[1].exact(lane, column);
                exact = y.alpha * exact;
                if (added) exact = exact + y.gamma * extra[place];
                tile[place] = static_cast<float>(exact + 0.0);
            }
        }
        store_turned(job.out, plane, first, lanes, j, tile);
    }
    return Settled::done;
}

bool columns_exact(const Job& job, int64_t plane, int64_t block, Scratch& s, const Half* halves, bool certified) {
    const double* const weights = weights_of(job, plane);
    const bool by_slices = !sane(weights[0]) || (job.has_second && weights[1] != 0 && !sane(weights[1]));
    Settled settled = columns_settled(job, plane, block, s, halves, certified, by_slices);
    if (settled == Settled::results_open) settled = columns_settled(job, plane, block, s, halves, certified, true);
    return settled == Settled::done;
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

bool rows_entry(const Job& job, int term, int64_t plane, int64_t block, Scratch& s, const Half& half, const void* spectrum, bool certified) {
    if (job.mode == Mode::exact) return rows_exact(job, term, plane, block, s, half, certified);
    if (job.mode == Mode::f32) return rows_plain(job, term, plane, block, s, static_cast<float*>(half.product), static_cast<const float*>(spectrum));
    return rows_plain(job, term, plane, block, s, static_cast<double*>(half.product), static_cast<const double*>(spectrum));
}

void spectrum_entry(const Job& job, int64_t block, Scratch& s, const Half& half, void* spectrum) {
    if (job.mode == Mode::f32) return spectrum_of(job, block, s, static_cast<const float*>(half.product), static_cast<float*>(spectrum));
    spectrum_of(job, block, s, static_cast<const double*>(half.product), static_cast<double*>(spectrum));
}

bool columns_entry(const Job& job, int64_t plane, int64_t block, Scratch& s, const Half* halves, bool certified) {
    if (job.mode == Mode::exact) return columns_exact(job, plane, block, s, halves, certified);
    if (job.mode == Mode::f32) {
        columns_plain<float>(job, plane, block, s, halves);
    } else {
        columns_plain<double>(job, plane, block, s, halves);
    }
    return true;
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
