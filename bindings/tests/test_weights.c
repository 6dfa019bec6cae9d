/* SPDX-License-Identifier: Apache-2.0 */
/* Weights of forecasts from their normal equations, with T_m(x) = cos(m acos x), and every status of these functions. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "expect.h"
#include "spectral_kernels.h"

enum { N = 50, K = 6, G = 2, M = 3 };

static const double steps[K] = {0, 1, 2, 4, 7, 11}, targets[G] = {11, 14.5};

static double chebyshev(int m, double step) {
    const double tau = 2 * step / N - 1;
    return cos(m * acos(tau));
}

static sk_fit fit_of(double ridge, double blend) {
    sk_fit fit = sk_default_fit();
    fit.num_steps = N;
    fit.degree = M;
    fit.ridge = ridge;
    fit.blend = blend;
    return fit;
}

/* Sums of at most K + 1 products below 2, each weight within 2^-24 of itself. */
static void test_normal_equations(void) {
    const sk_fit fit = fit_of(0.1, 1);
    float c[G][M + 3], w[G][K];
    EXPECT_STATUS(sk_moment_weights(&fit, steps, K, targets, G, &c[0][0]), SK_OK);
    EXPECT_STATUS(sk_chebyshev_weights(&fit, steps, K, targets, G, &w[0][0]), SK_OK);
    for (int g = 0; g < G; ++g) {
        for (int a = 0; a <= M; ++a) {
            double left = 0.1 * c[g][a], size = fabs(left);
            for (int k = 0; k < K; ++k) {
                for (int b = 0; b <= M; ++b) {
                    const double term = chebyshev(a, steps[k]) * chebyshev(b, steps[k]) * c[g][b];
                    left += term;
                    size += fabs(term);
                }
            }
            EXPECT(fabs(left - chebyshev(a, targets[g])) <= 0x1p-23 * size);
        }
        for (int k = 0; k < K; ++k) {
            double sum = 0, size = 0;
            for (int a = 0; a <= M; ++a) {
                sum += chebyshev(a, steps[k]) * c[g][a];
                size += fabs(chebyshev(a, steps[k]) * c[g][a]);
            }
            EXPECT(fabs(w[g][k] - sum) <= 0x1p-23 * (size + fabs(sum)));
        }
        EXPECT(c[g][M + 1] == 0 && c[g][M + 2] == 0); /* no share of the line */
    }
}

/* Without ridge the fit passes through features that are a cubic; the line passes through the last two. */
static void test_polynomials_and_lines(void) {
    const sk_fit cubic = fit_of(0, 1), line = fit_of(0, 0), both = fit_of(0, 0.25);
    float w[3][K], one = 0, moments[M + 2];
    EXPECT_STATUS(sk_chebyshev_weights(&cubic, steps, K, targets + 1, 1, w[0]), SK_OK);
    EXPECT_STATUS(sk_chebyshev_weights(&line, steps, K, targets + 1, 1, w[1]), SK_OK);
    EXPECT_STATUS(sk_chebyshev_weights(&both, steps, K, targets + 1, 1, w[2]), SK_OK);
    double sum = 0, size = 0;
    for (int k = 0; k < K; ++k) {
        const double x = steps[k] / N, value = 1 - 3 * x + 2 * x * x - 5 * x * x * x;
        sum += w[0][k] * value;
        size += fabs(w[0][k] * value);
        const float expected = k == K - 1 ? 1.875f : k == K - 2 ? -0.875f : 0; /* (14.5 - 11) / (11 - 7) beyond */
        EXPECT(w[1][k] == expected);
        EXPECT(fabs(w[2][k] - (0.25 * w[0][k] + 0.75 * w[1][k])) <= 0x1p-23 * (fabs((double)w[0][k]) + fabs((double)w[1][k])));
    }
    const double x = targets[1] / N;
    /* Each weight within 2^-24 of itself; the equations multiply a rounding of 2^-53 by less than 2^20. */
    EXPECT(fabs(sum - (1 - 3 * x + 2 * x * x - 5 * x * x * x)) <= (0x1p-24 + 0x1p-30) * size);
    /* One feature alone is used as it is. */
    EXPECT_STATUS(sk_chebyshev_weights(&line, steps, 1, targets, 1, &one), SK_SINGULAR); /* the fit is made all the same */
    const sk_fit soft = fit_of(0.1, 0);
    EXPECT_STATUS(sk_chebyshev_weights(&soft, steps, 1, targets, 1, &one), SK_OK);
    EXPECT(one == 1);
    EXPECT_STATUS(sk_moment_weights(&soft, steps, 1, targets, 1, moments), SK_OK);
    EXPECT(moments[M] == 0 && moments[M + 1] == 1);
}

/* Features of a run, forecast from themselves and from their moments. */
static void test_forecasts_agree(void) {
    enum { SIZE = 40 };
    const sk_fit fit = fit_of(0.1, 0.5);
    static float features[K][SIZE], moments[M + 1][SIZE], from_features[G][SIZE], from_moments[G][SIZE];
    float w[G][K], c[G][M + 3], row[M + 1];
    uint64_t state = 5;
    for (int k = 0; k < K; ++k) {
        for (int i = 0; i < SIZE; ++i) features[k][i] = (float)next_random(&state);
        EXPECT_STATUS(sk_chebyshev_row(&fit, steps[k], row), SK_OK);
        for (int m = 0; m <= M; ++m) EXPECT(fabs(row[m] - chebyshev(m, steps[k])) <= 0x1p-24);
        EXPECT_STATUS(sk_update_moments(&moments[0][0], M + 1, features[k], row, SIZE, SK_FLOAT32, 1), SK_OK);
    }
    EXPECT_STATUS(sk_chebyshev_weights(&fit, steps, K, targets, G, &w[0][0]), SK_OK);
    EXPECT_STATUS(sk_moment_weights(&fit, steps, K, targets, G, &c[0][0]), SK_OK);
    const void *const runs[K] = {features[0], features[1], features[2], features[3], features[4], features[5]};
    const void *const sums[M + 3] = {moments[0], moments[1], moments[2], moments[3], features[K - 2], features[K - 1]};
    EXPECT_STATUS(sk_forecast(runs, K, &w[0][0], G, SIZE, SK_FLOAT32, from_features, 1), SK_OK);
    EXPECT_STATUS(sk_forecast(sums, M + 3, &c[0][0], G, SIZE, SK_FLOAT32, from_moments, 1), SK_OK);
    for (int g = 0; g < G; ++g) {
        double size = 0;
        for (int m = 0; m < M + 3; ++m) size += fabs((double)c[g][m]) * (m <= M ? K : 1);
        for (int i = 0; i < SIZE; ++i) {
            /* Per term of |c| |S|, S <= K: weight, K updates, product and sums, of both forecasts. */
            EXPECT(fabs((double)from_features[g][i] - from_moments[g][i]) <= (4 * K + 2 * M) * 0x1p-24 * size);
        }
    }
}

static void test_schedule(void) {
    static const int published[14] = {0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46};
    uint8_t evaluated[N], expected[N] = {0};
    for (int i = 0; i < 14; ++i) expected[published[i]] = 1;
    memset(evaluated, 7, N);
    EXPECT_STATUS(sk_evaluation_steps(N, 2, 5, 0.75, evaluated), SK_OK);
    EXPECT(memcmp(evaluated, expected, N) == 0);
    EXPECT_STATUS(sk_evaluation_steps(N, 1, 1, 0, evaluated), SK_OK);
    memset(expected, 1, N);
    EXPECT(memcmp(evaluated, expected, N) == 0);
    EXPECT_STATUS(sk_evaluation_steps(0, 2, 5, 0.75, evaluated), SK_BAD_SIZE);
    EXPECT_STATUS(sk_evaluation_steps(INT64_MAX, 2, 5, 0.75, evaluated), SK_BAD_SIZE);
    EXPECT_STATUS(sk_evaluation_steps(N, 0.5, 5, 0.75, evaluated), SK_BAD_OPTION);
    EXPECT_STATUS(sk_evaluation_steps(N, INFINITY, 5, 0.75, evaluated), SK_BAD_OPTION);
    EXPECT_STATUS(sk_evaluation_steps(N, NAN, 5, 0.75, evaluated), SK_BAD_OPTION);
    EXPECT_STATUS(sk_evaluation_steps(N, 2, 0, 0.75, evaluated), SK_BAD_OPTION);
    EXPECT_STATUS(sk_evaluation_steps(N, 2, 5, -1, evaluated), SK_BAD_OPTION);
    EXPECT_STATUS(sk_evaluation_steps(N, 2, 5, NAN, evaluated), SK_BAD_OPTION);
    EXPECT_STATUS(sk_evaluation_steps(N, 2, 5, 0.75, NULL), SK_NULL_POINTER);
    EXPECT(memcmp(evaluated, expected, N) == 0);
    EXPECT_STATUS(sk_evaluation_steps(N, 1e308, 1, 1e308, evaluated), SK_OK); /* beyond what can be counted */
    memset(expected + 1, 0, N - 1);
    EXPECT(memcmp(evaluated, expected, N) == 0);
}

typedef sk_status (*weigh)(const sk_fit *, const double *, int64_t, const double *, int64_t, float *);

static void test_statuses(weigh call) {
    static _Alignas(8) float w[G][K + M], kept[G][K + M];
    for (int i = 0; i < G * (K + M); ++i) (&w[0][0])[i] = (&kept[0][0])[i] = 1; /* as doubles, a little above 2^-7 */
    const sk_fit good = fit_of(0.1, 0.5);
#define WITH(field, value, expected)                                          \
    do {                                                                      \
        sk_fit bad = good;                                                    \
        bad.field = (value);                                                  \
        EXPECT_STATUS(call(&bad, steps, K, targets, G, &w[0][0]), expected);  \
        EXPECT_STATUS(sk_chebyshev_row(&bad, 3, &w[0][0]), expected);         \
    } while (0)
    WITH(struct_size, 8, SK_BAD_STRUCT);
    WITH(reserved, 1, SK_BAD_STRUCT);
    WITH(num_steps, 0, SK_BAD_SIZE);
    WITH(degree, -1, SK_BAD_OPTION);
    WITH(degree, SK_MAX_DEGREE + 1, SK_BAD_OPTION);
    WITH(ridge, -0.1, SK_BAD_OPTION);
    WITH(ridge, INFINITY, SK_BAD_OPTION);
    WITH(ridge, NAN, SK_BAD_OPTION);
    WITH(blend, 1.5, SK_BAD_OPTION);
    WITH(blend, -0.5, SK_BAD_OPTION);
    WITH(blend, NAN, SK_BAD_OPTION);
#undef WITH
    const double falling[K] = {0, 1, 2, 4, 4, 11}, nowhere[K] = {0, 1, NAN, 4, 7, 11}, early[1] = {10}, late[1] = {N + 1};
    const double before[1] = {-1}, none[1] = {NAN};
    EXPECT_STATUS(call(NULL, steps, K, targets, G, &w[0][0]), SK_NULL_POINTER);
    EXPECT_STATUS(call(&good, NULL, K, targets, G, &w[0][0]), SK_NULL_POINTER);
    EXPECT_STATUS(call(&good, steps, K, NULL, G, &w[0][0]), SK_NULL_POINTER);
    EXPECT_STATUS(call(&good, steps, K, targets, G, NULL), SK_NULL_POINTER);
    EXPECT_STATUS(call(&good, steps, 0, targets, G, &w[0][0]), SK_BAD_SIZE);
    EXPECT_STATUS(call(&good, steps, INT64_MAX, targets, G, &w[0][0]), SK_BAD_SIZE);
    EXPECT_STATUS(call(&good, steps, K, targets, -1, &w[0][0]), SK_BAD_SIZE);
    EXPECT_STATUS(call(&good, steps, K, targets, INT64_MAX, &w[0][0]), SK_BAD_SIZE);
    EXPECT_STATUS(call(&good, steps, K, targets, INT64_MAX / 32, &w[0][0]), SK_BAD_SIZE);
    EXPECT_STATUS(call(&good, (const double *)(const void *)((const char *)steps + 4), 1, targets, G, &w[0][0]), SK_MISALIGNED);
    EXPECT_STATUS(call(&good, steps, K, targets, G, (float *)(void *)((char *)w + 2)), SK_MISALIGNED);
    EXPECT_STATUS(call(&good, (const double *)(const void *)w, 1, targets, G, &w[0][0]), SK_OVERLAP);
    EXPECT_STATUS(call(&good, steps, K, (const double *)(const void *)w, G, &w[0][0]), SK_OVERLAP);
    EXPECT_STATUS(call(&good, falling, K, targets, G, &w[0][0]), SK_BAD_STEP);
    EXPECT_STATUS(call(&good, nowhere, K, targets, G, &w[0][0]), SK_BAD_STEP);
    EXPECT_STATUS(call(&good, none, 1, targets, G, &w[0][0]), SK_BAD_STEP);
    EXPECT_STATUS(call(&good, before, 1, targets, G, &w[0][0]), SK_BAD_STEP);
    EXPECT_STATUS(call(&good, late, 1, late, 1, &w[0][0]), SK_BAD_STEP);
    EXPECT_STATUS(call(&good, steps, K, early, 1, &w[0][0]), SK_BAD_STEP);
    EXPECT_STATUS(call(&good, steps, K, late, 1, &w[0][0]), SK_BAD_STEP);
    EXPECT_STATUS(call(&good, steps, K, none, 1, &w[0][0]), SK_BAD_STEP);
    const sk_fit hard = fit_of(0, 0.5);
    EXPECT_STATUS(call(&hard, steps, M, targets, G, &w[0][0]), SK_SINGULAR);
    EXPECT_STATUS(sk_chebyshev_row(&good, -1, &w[0][0]), SK_BAD_STEP);
    EXPECT_STATUS(sk_chebyshev_row(&good, NAN, &w[0][0]), SK_BAD_STEP);
    EXPECT_STATUS(sk_chebyshev_row(&good, 3, NULL), SK_NULL_POINTER);
    EXPECT_STATUS(sk_chebyshev_row(NULL, 3, &w[0][0]), SK_NULL_POINTER);
    EXPECT_STATUS(call(&good, steps, K, targets, 0, &w[0][0]), SK_OK); /* nothing to do is no mistake */
    EXPECT(memcmp(w, kept, sizeof(w)) == 0);
}

int main(void) {
    test_normal_equations();
    test_polynomials_and_lines();
    test_forecasts_agree();
    test_schedule();
    test_statuses(sk_chebyshev_weights);
    test_statuses(sk_moment_weights);
    return failures != 0;
}
