/* SPDX-License-Identifier: Apache-2.0 */
/* Every function against its formula, with cosines of the C library and plain sums in double. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "expect.h"
#include "spectral_kernels.h"

enum { h = 6, w = 9, H = 11, W = 18, SAMPLES = 2, PLANES = 3 };

/* Rounding to float32 of a result below 8 in magnitude, and nothing else. */
static const double tolerance = 8 * 0x1p-24;

static double basis(int n, int k, int j) {
    const double pi = 3.14159265358979323846;
    return sqrt((k == 0 ? 1.0 : 2.0) / n) * cos(pi * (2 * j + 1) * k / (2.0 * n));
}

/* A_H[i, j] = sum over the shared frequencies. */
static double up(int fine, int coarse, int i, int j) {
    double sum = 0;
    for (int k = 0; k < coarse; ++k) sum += basis(fine, k, i) * basis(coarse, k, j);
    return sum;
}

static double lowpass(int fine, int coarse, int i, int j) {
    double sum = 0;
    for (int k = 0; k < coarse; ++k) sum += basis(fine, k, i) * basis(fine, k, j);
    return sum;
}

static float x[SAMPLES][PLANES][h][w], z[SAMPLES][PLANES][H][W], noise[SAMPLES][PLANES][H][W], y[SAMPLES][PLANES][H][W];
static float low[SAMPLES][PLANES][h][w];

static sk_array coarse_of(float (*data)[PLANES][h][w]) { return sk_contiguous(data, SK_FLOAT32, SAMPLES, PLANES, h, w); }
static sk_array fine_of(float (*data)[PLANES][H][W]) { return sk_contiguous(data, SK_FLOAT32, SAMPLES, PLANES, H, W); }

static sk_plan *plan_of(sk_operation operation) {
    sk_plan_options options = sk_default_plan_options();
    options.operation = (int32_t)operation;
    options.coarse[0] = h;
    options.coarse[1] = w;
    options.fine[0] = H;
    options.fine[1] = W;
    options.threads = 2;
    sk_plan *plan = NULL;
    EXPECT_STATUS(sk_plan_create(&plan, &options), SK_OK);
    return plan;
}

static const double ratio = 1.9148542155126762; /* sqrt(11 * 18 / (6 * 9)) */

static void test_expand(void) {
    sk_plan *plan = plan_of(SK_EXPAND);
    const double t[SAMPLES] = {0.35, 0.8};
    double aligned[SAMPLES];
    const sk_array in = coarse_of(x), added = fine_of(noise), out = fine_of(y);
    sk_noise given = sk_default_noise();
    given.values = &added;
    EXPECT_STATUS(sk_expand(plan, &in, t, SAMPLES, &given, 1, &out, aligned), SK_OK);
    for (int b = 0; b < SAMPLES; ++b) {
        const double u = 1 + (ratio - 1) * t[b];
        EXPECT(fabs(aligned[b] - ratio * t[b] / u) < 1e-15);
        for (int p = 0; p < PLANES; ++p) {
            for (int i = 0; i < H; ++i) {
                for (int j = 0; j < W; ++j) {
                    double signal = 0, drawn = 0;
                    for (int k = 0; k < h; ++k) {
                        for (int l = 0; l < w; ++l) signal += up(H, h, i, k) * x[b][p][k][l] * up(W, w, j, l);
                    }
                    for (int k = 0; k < H; ++k) {
                        for (int l = 0; l < W; ++l) {
                            if (k >= h || l >= w) drawn += basis(H, k, i) * noise[b][p][k][l] * basis(W, l, j);
                        }
                    }
                    EXPECT(fabs(y[b][p][i][j] - ratio / u * (signal + t[b] * drawn)) < tolerance);
                }
            }
        }
    }
    sk_plan_destroy(plan);
}

static void test_truncate(void) {
    sk_plan *plan = plan_of(SK_TRUNCATE);
    const sk_array in = fine_of(z), out = coarse_of(low);
    static float clean[SAMPLES][PLANES][h][w], plain[SAMPLES][PLANES][h][w];
    const sk_array clean_out = coarse_of(clean), plain_out = coarse_of(plain);
    const double t[SAMPLES] = {0, 0.35}, kappa = ratio / (1 + (ratio - 1) * t[1]);
    EXPECT_STATUS(sk_truncate(plan, &in, t, SAMPLES, 1, &out), SK_OK);
    EXPECT_STATUS(sk_truncate(plan, &in, NULL, 0, 1, &clean_out), SK_OK);
    EXPECT_STATUS(sk_truncate(plan, &in, t, 1, 0, &plain_out), SK_OK);
    for (int i = 0; i < h; ++i) {
        for (int j = 0; j < w; ++j) {
            double sum = 0;
            for (int k = 0; k < H; ++k) {
                for (int l = 0; l < W; ++l) sum += up(H, h, k, i) * z[1][2][k][l] * up(W, w, l, j);
            }
            EXPECT(fabs(low[1][2][i][j] - sum / kappa) < tolerance);
            EXPECT(fabs(clean[1][2][i][j] - sum / ratio) < tolerance);
            EXPECT(fabs(plain[1][2][i][j] - sum) < tolerance);
        }
    }
    EXPECT(memcmp(low[0], clean[0], sizeof(low[0])) == 0); /* no time is the time 0 */
    EXPECT_STATUS(sk_truncate(plan, &in, t + 1, 1, 1, &plain_out), SK_OK);
    EXPECT(memcmp(low[1], plain[1], sizeof(low[1])) == 0 && memcmp(plain[0], clean[0], sizeof(low[0])) != 0);
    sk_plan_destroy(plan);
}

static void test_transform(void) {
    sk_plan *analysis = plan_of(SK_ANALYSIS), *synthesis = plan_of(SK_SYNTHESIS);
    static float back[SAMPLES][PLANES][H][W];
    const sk_array in = fine_of(z), out = fine_of(y), again = fine_of(back);
    EXPECT_STATUS(sk_transform(analysis, &in, &out), SK_OK);
    double sum = 0;
    for (int i = 0; i < H; ++i) {
        for (int j = 0; j < W; ++j) sum += basis(H, 4, i) * z[0][1][i][j] * basis(W, 7, j);
    }
    EXPECT(fabs(y[0][1][4][7] - sum) < tolerance);
    EXPECT_STATUS(sk_transform(synthesis, &out, &again), SK_OK);
    for (int i = 0; i < H; ++i) {
        for (int j = 0; j < W; ++j) EXPECT(fabsf(back[0][1][i][j] - z[0][1][i][j]) < (float)(4 * tolerance));
    }
    sk_plan_destroy(analysis);
    sk_plan_destroy(synthesis);
}

static void test_lift(void) {
    sk_plan *plan = plan_of(SK_LIFT);
    const double t = 0.4, u = 1 + (ratio - 1) * t, aligned = ratio * t / u;
    static float plain[SAMPLES][PLANES][H][W];
    const sk_array state = fine_of(z), velocity = coarse_of(x), out = fine_of(y), plain_out = fine_of(plain);
    EXPECT_STATUS(sk_lift(plan, &state, &velocity, &t, 1, 1, &out), SK_OK);
    EXPECT_STATUS(sk_lift(plan, &state, &velocity, &t, 1, 0, &plain_out), SK_OK);
    const int i = 7, j = 12;
    double v = 0, l = 0;
    for (int k = 0; k < h; ++k) {
        for (int m = 0; m < w; ++m) v += up(H, h, i, k) * x[1][0][k][m] * up(W, w, j, m);
    }
    for (int k = 0; k < H; ++k) {
        for (int m = 0; m < W; ++m) l += lowpass(H, h, i, k) * z[1][0][k][m] * lowpass(W, w, j, m);
    }
    EXPECT(fabs(y[1][0][i][j] - (u * (v - l / aligned) + z[1][0][i][j] / aligned)) < tolerance);
    EXPECT(fabs(plain[1][0][i][j] - (v - l / t + z[1][0][i][j] / t)) < tolerance);
    sk_plan_destroy(plan);
}

/* The first deviates of seed 0, stream 0, plane 0: reference/noise.py. Seeds and arrays must give the same expansion. */
static void test_noise(void) {
    const sk_array out = fine_of(noise);
    const int64_t seeds[SAMPLES] = {7, 8};
    EXPECT_STATUS(sk_normal(&out, seeds, 1, 0, 2), SK_OK);
    double mean = 0, square = 0;
    for (int i = 0; i < SAMPLES * PLANES * H * W; ++i) {
        const double value = (&noise[0][0][0][0])[i];
        EXPECT(value * 0x1p17 == floor(value * 0x1p17));
        mean += value / (SAMPLES * PLANES * H * W);
        square += value * value / (SAMPLES * PLANES * H * W);
    }
    EXPECT(fabs(mean) < 5 / sqrt(SAMPLES * PLANES * H * W) && fabs(square - 1) < 5 * sqrt(2.0 / (SAMPLES * PLANES * H * W)));

    sk_plan *plan = plan_of(SK_EXPAND);
    const double t = 0.5;
    static float drawn[SAMPLES][PLANES][H][W];
    const sk_array in = coarse_of(x), added = fine_of(noise), one = fine_of(y), two = fine_of(drawn);
    sk_noise given = sk_default_noise(), seeded = sk_default_noise();
    given.values = &added;
    seeded.seeds = seeds;
    for (int64_t count = 1; count <= SAMPLES; ++count) {
        seeded.seed_count = count;
        EXPECT_STATUS(sk_expand(plan, &in, &t, 1, &given, 1, &one, NULL), SK_OK);
        EXPECT_STATUS(sk_expand(plan, &in, &t, 1, &seeded, 1, &two, NULL), SK_OK);
        EXPECT(memcmp(y, drawn, sizeof(y)) == 0);
    }
    sk_plan_destroy(plan);
}

/* Tokens of 2 x 2 patches, read and written in place, hold the same numbers. */
static void test_patches(void) {
    enum { a = 4, b = 6 };
    static float plain[a][b], tokens[a / 2][b / 2][2][2], result[2 * a][2 * b], packed[a][b][2][2];
    uint64_t state = 3;
    for (int i = 0; i < a; ++i) {
        for (int j = 0; j < b; ++j) {
            plain[i][j] = tokens[i / 2][j / 2][i % 2][j % 2] = (float)next_random(&state);
        }
    }
    sk_plan_options options = sk_default_plan_options();
    options.coarse[0] = a;
    options.coarse[1] = b;
    options.fine[0] = 2 * a;
    options.fine[1] = 2 * b;
    sk_plan *plan = NULL;
    EXPECT_STATUS(sk_plan_create(&plan, &options), SK_OK);
    const int64_t seed = 1;
    sk_noise given = sk_default_noise();
    given.seeds = &seed;
    given.seed_count = 1;
    const double t = 0.25;
    const sk_array in = sk_contiguous(plain, SK_FLOAT32, 1, 1, a, b), out = sk_contiguous(result, SK_FLOAT32, 1, 1, 2 * a, 2 * b);
    sk_array token_in = in, token_out = out;
    token_in.data = tokens;
    token_out.data = packed;
    token_in.patch = token_out.patch = 2;
    token_in.patch_stride[0] = token_out.patch_stride[0] = 2;
    token_in.patch_stride[1] = token_out.patch_stride[1] = 1;
    token_in.stride[3] = token_out.stride[3] = 4;
    token_in.stride[2] = 4 * b / 2;
    token_out.stride[2] = 4 * b;
    EXPECT_STATUS(sk_expand(plan, &in, &t, 1, &given, 1, &out, NULL), SK_OK);
    EXPECT_STATUS(sk_expand(plan, &token_in, &t, 1, &given, 1, &token_out, NULL), SK_OK);
    for (int i = 0; i < 2 * a; ++i) {
        for (int j = 0; j < 2 * b; ++j) EXPECT(memcmp(&result[i][j], &packed[i / 2][j / 2][i % 2][j % 2], 4) == 0);
    }
    sk_plan_destroy(plan);
}

static void test_forecast(void) {
    enum { K = 3, G = 2, N = 1000 };
    static _Alignas(8) float features[K][N], out[G][N], kept[G][N];
    const float weights[G][K] = {{0.5f, -1.25f, 1.75f}, {0.1f, 0.2f, 0.7f}};
    const void *const runs[K] = {features[0], features[1], features[2]};
    uint64_t state = 11;
    for (int i = 0; i < K * N; ++i) (&features[0][0])[i] = (float)next_random(&state);
    EXPECT_STATUS(sk_forecast(runs, K, &weights[0][0], G, N, SK_FLOAT32, out, 2), SK_OK);
    for (int g = 0; g < G; ++g) {
        for (int i = 0; i < N; ++i) {
            volatile float sum = weights[g][0] * features[0][i]; /* volatile: nothing may be contracted */
            for (int k = 1; k < K; ++k) {
                volatile float product = weights[g][k] * features[k][i];
                sum = sum + product;
            }
            EXPECT(out[g][i] == sum);
        }
    }
    memcpy(kept, out, sizeof(out));
    EXPECT_STATUS(sk_forecast(NULL, K, &weights[0][0], G, N, SK_FLOAT32, out, 1), SK_NULL_POINTER);
    EXPECT_STATUS(sk_forecast(runs, K, NULL, G, N, SK_FLOAT32, out, 1), SK_NULL_POINTER);
    EXPECT_STATUS(sk_forecast(runs, K, &weights[0][0], G, N, SK_FLOAT32, NULL, 1), SK_NULL_POINTER);
    EXPECT_STATUS(sk_forecast(runs, 0, &weights[0][0], G, N, SK_FLOAT32, out, 1), SK_BAD_SIZE);
    EXPECT_STATUS(sk_forecast(runs, K, &weights[0][0], G, INT64_MAX, SK_FLOAT32, out, 1), SK_BAD_SIZE);
    EXPECT_STATUS(sk_forecast(runs, K, &weights[0][0], G, N, 7, out, 1), SK_UNKNOWN_ENUM);
    EXPECT_STATUS(sk_forecast(runs, K, &weights[0][0], G, N, SK_FLOAT64, out, 1), SK_WRONG_DTYPE);
    EXPECT_STATUS(sk_forecast(runs, K, &weights[0][0], 1, N, SK_FLOAT32, features[1], 1), SK_OVERLAP);
    EXPECT_STATUS(sk_forecast(runs, K, &weights[0][0], 1, N - 1, SK_FLOAT32, (char *)out + 1, 1), SK_MISALIGNED);
    /* The weights and the table of features are inputs too. */
    EXPECT_STATUS(sk_forecast(runs, K, &out[1][0], G, N, SK_FLOAT32, out, 1), SK_OVERLAP);
    EXPECT_STATUS(sk_forecast((const void *const *)(const void *)out, K, &weights[0][0], G, N, SK_FLOAT32, out, 1), SK_OVERLAP);
    EXPECT_STATUS(sk_forecast(runs, K, (const float *)(const void *)((const char *)weights + 2), 1, N, SK_FLOAT32, out, 1), SK_MISALIGNED);
    EXPECT_STATUS(sk_forecast((const void *const *)(const void *)((const char *)runs + 4), 1, &weights[0][0], 1, N, SK_FLOAT32, out, 1),
                  SK_MISALIGNED);
    EXPECT_STATUS(sk_forecast(runs, INT64_MAX, &weights[0][0], G, N, SK_FLOAT32, out, 1), SK_BAD_SIZE);
    EXPECT_STATUS(sk_forecast(runs, K, &weights[0][0], INT64_MAX, 0, SK_FLOAT32, out, 1), SK_BAD_SIZE);
    const void *lost[K] = {features[0]};
    EXPECT_STATUS(sk_forecast(lost, K, &weights[0][0], G, N, SK_FLOAT32, out, 1), SK_NULL_POINTER);
    EXPECT_STATUS(sk_forecast(runs, K, &weights[0][0], G, -1, SK_FLOAT32, out, 1), SK_BAD_SIZE);
    EXPECT_STATUS(sk_forecast(runs, K, &weights[0][0], -1, N, SK_FLOAT32, out, 1), SK_BAD_SIZE);
    EXPECT_STATUS(sk_forecast(runs, K, &weights[0][0], G, N, SK_FLOAT32, out, -1), SK_BAD_SIZE);
    EXPECT(memcmp(kept, out, sizeof(out)) == 0);
}

int main(void) {
    uint64_t state = 1;
    for (int i = 0; i < SAMPLES * PLANES * h * w; ++i) (&x[0][0][0][0])[i] = (float)next_random(&state);
    for (int i = 0; i < SAMPLES * PLANES * H * W; ++i) {
        (&z[0][0][0][0])[i] = (float)next_random(&state);
        (&noise[0][0][0][0])[i] = (float)next_random(&state);
    }
    test_expand();
    test_truncate();
    test_transform();
    test_lift();
    test_noise();
    test_patches();
    test_forecast();
    EXPECT(sk_version() == SK_VERSION_MAJOR * 10000 + SK_VERSION_MINOR * 100 + SK_VERSION_PATCH);
    return failures != 0;
}
