// SPDX-License-Identifier: Apache-2.0
// Micro-kernels: a panel of table rows times a block of 16 columns, accumulators in registers.
#include "isa.hpp"
#include "job.hpp"

namespace sk::SK_ISA {
namespace {

template <class T>
struct Vector {
    typedef T Type __attribute__((vector_size(SK_VECTOR_BYTES)));
};

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

// Panels of `Rows` rows; `kRowsExact` of them are summed at a time.
template <int Rows, class T>
void plain(const T* table, const T* data, int64_t K, int64_t panels, int64_t skip, T* out) {
    using V = typename Vector<T>::Type;
    constexpr int lanes = SK_VECTOR_BYTES / static_cast<int>(sizeof(T)), vectors = kPair<T>, rows = kPair<T> == 1 ? Rows : kRowsExact;
    for (int64_t panel = 0; panel < panels; ++panel, out += Rows * kLanes) {
        for (int part = 0; part < Rows; part += rows) {
            const T* const start = table + (panel * K + skip) * Rows + part;
            for (int first = 0; first < kLanes; first += vectors * lanes) {
                V sum[rows][vectors] = {};
                const T* t = start;
                for (int64_t k = skip; k < K; ++k, t += Rows) {
                    V z[vectors];
#pragma GCC unroll 8
                    for (int v = 0; v < vectors; ++v) z[v] = *reinterpret_cast<const V*>(data + k * kLanes + first + v * lanes);
#pragma GCC unroll 8
                    for (int i = 0; i < rows; ++i) {
                        const T a = t[i];
#pragma GCC unroll 8
                        for (int v = 0; v < vectors; ++v) sum[i][v] += a * z[v];
                    }
                }
#pragma GCC unroll 8
                for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
                    for (int v = 0; v < vectors; ++v) {
                        *reinterpret_cast<V*>(out + (part + i) * kLanes + first + v * lanes) = sum[i][v];
                    }
                }
            }
        }
    }
}

}  // namespace

void gemm_exact(const double* table, const double* high, const double* low, int64_t K, int64_t panels, int64_t skip,
                double* main, double* cross) {
    exact<2>(table, high, low, K, panels, skip, main, cross);
}

void gemm_exact_one(const double* table, const double* high, int64_t K, int64_t panels, int64_t skip, double* main,
                    double* cross) {
    exact<1>(table, high, nullptr, K, panels, skip, main, cross);
}

void gemm_whole(const double* table, const double* data, int64_t K, int64_t panels, int64_t skip, double* out) {
    plain<kRowsExact>(table, data, K, panels, skip, out);
}

void gemm(const double* table, const double* data, int64_t K, int64_t panels, int64_t skip, double* out) {
    plain<kRowsPlain>(table, data, K, panels, skip, out);
}

void gemm(const float* table, const float* data, int64_t K, int64_t panels, int64_t skip, float* out) {
    plain<kRowsPlain>(table, data, K, panels, skip, out);
}

void rotate(const Rotation* steps, int64_t count, float* slots) {
    using V = Vector<float>::Type;
    constexpr int lanes = SK_VECTOR_BYTES / 4;
    for (int64_t n = 0; n < count; ++n) {
        const Rotation& r = steps[n];
        for (int first = 0; first < kLanes; first += lanes) {
            V& p = *reinterpret_cast<V*>(slots + r.p * kLanes + first);
            V& q = *reinterpret_cast<V*>(slots + r.q * kLanes + first);
            const V x = p, y = q;
            p = r.a * x + r.b * y;
            q = r.c * x + r.d * y;
        }
    }
}

}  // namespace sk::SK_ISA
