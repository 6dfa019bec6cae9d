// SPDX-License-Identifier: Apache-2.0
// What is compiled once per instruction set. Everything behind these functions lives in its own namespace and uses no
// inline functions of the standard library, so that no wide instruction leaks into code that runs everywhere.
#pragma once

#include <cstdint>

#ifndef SK_ISA
#define SK_ISA baseline
#define SK_VECTOR_BYTES 16
#endif

namespace sk {

struct Job;
struct Forecast;
struct Haar;
struct Merge;
struct Moments;
struct Noise;
struct NoiseLevel;
struct Half;
template <class T>
struct Rotation;
struct Scratch;
struct Split;

struct Isa {
    const char* name;
    int vector_bytes;
    // First product of a term (0 or 1) for the block of columns [16 block, 16 block + 16) of plane `plane`, into `half`.
    // Returns false when it met a NaN or an infinity. A spectral job's second term takes its corner from `spectrum`. Exact:
    // `certified` products are near the contract's, the others are equal to it and take three times as long.
    bool (*rows)(const Job& job, int term, int64_t plane, int64_t block, Scratch& scratch, const Half& half, const void* spectrum,
                 bool certified);
    // Spectral jobs: the second analysis, of rows [16 block, 16 block + 16) of half[0], into `spectrum` [row][column].
    void (*spectrum)(const Job& job, int64_t block, Scratch& scratch, const Half& half, void* spectrum);
    // Second product of all terms, weights and rounding for the rows [16 block, 16 block + 16). Returns false, with nothing
    // written, when certified first products leave too much open.
    bool (*columns)(const Job& job, int64_t plane, int64_t block, Scratch& scratch, const Half* halves, bool certified);
    // Rows [4 group, 4 group + 4) of noise of the plane that begins at `base`.
    void (*noise)(const Noise& noise, uint64_t seed, int64_t base, uint32_t plane, int64_t group);
    // Elements [start, stop) of every target.
    void (*forecast)(const Forecast& job, int64_t start, int64_t stop);
    // Elements [start, stop) of every moment.
    void (*moments)(const Moments& job, int64_t start, int64_t stop);
    // Columns [16 first, 16 last) of the coarse grid; `memory` for LL of the levels and noise.
    void (*haar)(const Haar& job, int64_t plane, int64_t first, int64_t last, double* memory);
    // Rows [first, last) of a level: coarse ones of "area", else fine ones; `memory` holds seven fine lines.
    void (*split)(const Split& job, int64_t plane, int64_t first, int64_t last, double* memory);
    void (*merge)(const Merge& job, int64_t plane, int64_t first, int64_t last, double* memory);
    // Rows [4 group, 4 group + 4) of one plane.
    void (*noise_level)(const NoiseLevel& job, int64_t plane, int64_t group);
};

extern const Isa isa_baseline, isa_avx2, isa_avx512;

// Dense leaves, in a file of their own because only there products and sums may fuse: on slices both are exact.
namespace SK_ISA {
void gemm_exact(const double* table, const double* high, const double* low, int64_t K, int64_t panels, int64_t skip,
                double* main, double* cross);
void gemm_exact_one(const double* table, const double* high, int64_t K, int64_t panels, int64_t skip, double* main,
                    double* cross);
void gemm(const double* table, const double* data, int64_t K, int64_t panels, int64_t skip, double* out);
void gemm(const float* table, const float* data, int64_t K, int64_t panels, int64_t skip, float* out);
double dot_exact(const float* high, const float* low, const float* data, int64_t length, double shift, double finest);
double dot_exact(const float* high, const float* low, const double* data, int64_t length, double shift, double finest);
void rotate(const Rotation<float>* steps, int64_t count, float* slots);
void rotate(const Rotation<double>* steps, int64_t count, double* slots);

// In local.cpp.
void noise_rows(const Noise& noise, uint64_t seed, int64_t base, uint32_t plane, int64_t group);
void forecast_span(const Forecast& job, int64_t start, int64_t stop);
void moments_span(const Moments& job, int64_t start, int64_t stop);
void haar_columns(const Haar& job, int64_t plane, int64_t first, int64_t last, double* memory);
void split_rows(const Split& job, int64_t plane, int64_t first, int64_t last, double* memory);
void merge_rows(const Merge& job, int64_t plane, int64_t first, int64_t last, double* memory);
void noise_level(const NoiseLevel& job, int64_t plane, int64_t group);
}  // namespace SK_ISA

}  // namespace sk
