// SPDX-License-Identifier: Apache-2.0
// Micro-kernels: a panel of table rows times a block of 16 columns, accumulators in registers.
#include "isa.hpp"
#include "job.hpp"

namespace sk::SK_ISA {
namespace {

#include "vectors.inl"

// Vectors of a block that stay in registers together; the block is done in kLanes / (kWidth * lanes) passes.
template <class T>
constexpr int kVectors = SK_VECTOR_BYTES == 64 ? kLanes / (SK_VECTOR_BYTES / static_cast<int>(sizeof(T))) : 1;

// Where a sum has one accumulator, two vectors by four rows keep both units of a core busy and load least.
template <class T>
constexpr int kPair = kLanes / (SK_VECTOR_BYTES / static_cast<int>(sizeof(T))) < 2 ? 1 : 2;

// main += high-by-high, cross += high-by-low + low-by-high, for `Slices` slices of the data.
template <int Slices>
void exact(const double* table, const double* high, const double* low, int64_t K, int64_t panels, int64_t skip,
           double* main, double* cross) {
    using V = Vector<double>::Type;
    constexpr int lanes = SK_VECTOR_BYTES / 8, vectors = kVectors<double>, rows = kRowsExact;
    for (int64_t panel = 0; panel < panels; ++panel, main += rows * kLanes, cross += rows * kLanes) {
        const double* const start = table + panel * K * rows * 2;
        for (int first = 0; first < kLanes; first += vectors * lanes) {
            // Three chains of sums per row: two of them would wait for each other's results.
            V m[rows][vectors] = {}, c[rows][vectors] = {}, d[rows][vectors] = {};
            const double* t = start + skip * rows * 2;
            for (int64_t k = skip; k < K; ++k, t += rows * 2) {
                V h[vectors], l[vectors];
#pragma GCC unroll 8
                for (int v = 0; v < vectors; ++v) {
                    h[v] = *reinterpret_cast<const V*>(high + k * kLanes + first + v * lanes);
                    if (Slices == 2) l[v] = *reinterpret_cast<const V*>(low + k * kLanes + first + v * lanes);
                }
#pragma GCC unroll 8
                for (int i = 0; i < rows; ++i) {
                    const double a = t[2 * i], b = t[2 * i + 1];
#pragma GCC unroll 8
                    for (int v = 0; v < vectors; ++v) {
                        m[i][v] += a * h[v];
                        c[i][v] += b * h[v];
                        if (Slices == 2) d[i][v] += a * l[v];
                    }
                }
            }
#pragma GCC unroll 8
            for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
                for (int v = 0; v < vectors; ++v) {
                    *reinterpret_cast<V*>(main + i * kLanes + first + v * lanes) = m[i][v];
                    *reinterpret_cast<V*>(cross + i * kLanes + first + v * lanes) = Slices == 2 ? c[i][v] + d[i][v] : c[i][v];
                }
            }
        }
    }
}

// A sum of `Rows` x `Vectors` accumulators: += table rows times data for k in [first, last).
template <int Rows, int Vectors, class V, class T>
inline void multiply(const T* table, int step, const T* data, int64_t first, int64_t last, V (&sum)[Rows][Vectors]) {
    const T* t = table + first * step;
    for (int64_t k = first; k < last; ++k, t += step) {
        V z[Vectors];
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) z[v] = reinterpret_cast<const V*>(data + k * kLanes)[v];
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i) {
            const T a = t[i];
#pragma GCC unroll 8
            for (int v = 0; v < Vectors; ++v) sum[i][v] += a * z[v];
        }
    }
}

template <int Rows, int Vectors, class V>
inline void add(const V (&from)[Rows][Vectors], V (&to)[Rows][Vectors]) {
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) to[i][v] += from[i][v];
    }
}

// Panels of `Rows` rows; `kRowsExact` of them are summed at a time. Sums of float64 are joined run by run: the bound of the
// error grows with the length of runs and their number, not with K.
template <int Rows, class T>
void plain(const T* table, const T* data, int64_t K, int64_t panels, int64_t skip, T* out) {
    using V = typename Vector<T>::Type;
    constexpr int lanes = SK_VECTOR_BYTES / static_cast<int>(sizeof(T)), vectors = kPair<T>, rows = kPair<T> == 1 ? Rows : kRowsExact;
    for (int64_t n = 0; n < panels * Rows; n += rows) {
        const T* const t = table + n / Rows * Rows * K + n % Rows;
        for (int first = 0; first < kLanes; first += vectors * lanes) {
            const T* const z = data + first;
            V total[rows][vectors] = {};
            if (sizeof(T) == sizeof(float)) multiply(t, Rows, z, skip, K, total);
            for (int64_t k = skip; sizeof(T) == sizeof(double) && k < K;) {
                V group[rows][vectors] = {};
                const int64_t stop = (k / kGroup + 1) * kGroup < K ? (k / kGroup + 1) * kGroup : K;
                for (; k % kRun == 0 && k + kRun <= stop; k += kRun) {
                    V sum[rows][vectors] = {};
                    multiply(t + k * Rows, Rows, z + k * kLanes, 0, kRun, sum);
                    add(sum, group);
                }
                if (k < stop) {
                    const int64_t end = (k / kRun + 1) * kRun < stop ? (k / kRun + 1) * kRun : stop;
                    V sum[rows][vectors] = {};
                    multiply(t, Rows, z, k, end, sum);
                    add(sum, group);
                    k = end;
                }
                add(group, total);
            }
#pragma GCC unroll 8
            for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
                for (int v = 0; v < vectors; ++v) reinterpret_cast<V*>(out + (n + i) * kLanes + first)[v] = total[i][v];
            }
        }
    }
}

template <class T>
void rotate_in(const Rotation<T>* steps, int64_t count, T* slots) {
    using V = typename Vector<T>::Type;
    constexpr int lanes = SK_VECTOR_BYTES / static_cast<int>(sizeof(T));
    for (int64_t n = 0; n < count; ++n) {
        const Rotation<T>& r = steps[n];
        for (int first = 0; first < kLanes; first += lanes) {
            V& p = *reinterpret_cast<V*>(slots + r.p * kLanes + first);
            V& q = *reinterpret_cast<V*>(slots + r.q * kLanes + first);
            const V x = p, y = q;
            p = r.a * x + r.b * y;
            q = r.c * x + r.d * y;
        }
    }
}

// Rows of a table's slices times one line of data, summed as slices; `length` is a multiple of 16.
template <class T>
inline double dot(const float* high, const float* low, const T* data, int64_t length, double shift, double finest) {
    using D = V<double>;
    constexpr int lanes = SK_VECTOR_BYTES / 8;
    const D c = D{} + shift, f = D{} + finest;
    D mains = {}, crosses = {}, others = {};
    for (int64_t k = 0; k < length; k += lanes) {
        D z = doubles(data + k), z_high, z_low;
        cut(z, z_high, z_low, c, f);
        const D h = doubles(high + k);
        mains += h * z_high;
        crosses += h * z_low;
        others += doubles(low + k) * z_high;
    }
    crosses += others;
    double main = 0, cross = 0;
    for (int i = 0; i < lanes; ++i) {
        main += mains[i];
        cross += crosses[i];
    }
    return main + cross;
}

}  // namespace

double dot_exact(const float* high, const float* low, const float* data, int64_t length, double shift, double finest) {
    return dot(high, low, data, length, shift, finest);
}

double dot_exact(const float* high, const float* low, const double* data, int64_t length, double shift, double finest) {
    return dot(high, low, data, length, shift, finest);
}

void gemm_exact(const double* table, const double* high, const double* low, int64_t K, int64_t panels, int64_t skip,
                double* main, double* cross) {
    exact<2>(table, high, low, K, panels, skip, main, cross);
}

void gemm_exact_one(const double* table, const double* high, int64_t K, int64_t panels, int64_t skip, double* main,
                    double* cross) {
    exact<1>(table, high, nullptr, K, panels, skip, main, cross);
}

void gemm(const double* table, const double* data, int64_t K, int64_t panels, int64_t skip, double* out) {
    plain<kRowsPlain>(table, data, K, panels, skip, out);
}

void gemm(const float* table, const float* data, int64_t K, int64_t panels, int64_t skip, float* out) {
    plain<kRowsPlain>(table, data, K, panels, skip, out);
}

void rotate(const Rotation<float>* steps, int64_t count, float* slots) { rotate_in(steps, count, slots); }

void rotate(const Rotation<double>* steps, int64_t count, double* slots) { rotate_in(steps, count, slots); }

}  // namespace sk::SK_ISA
