/* SPDX-License-Identifier: Apache-2.0 */
/* Haar, pyramids, noised levels and moments: each against its formula in plain loops, and every status they can give. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "expect.h"
#include "spectral_kernels.h"

enum { SAMPLES = 2, PLANES = 3, h = 5, w = 7, H = 10, W = 14 };

static _Alignas(8) float x[SAMPLES][PLANES][H][W], y[SAMPLES][PLANES][H][W], again[SAMPLES][PLANES][H][W], untouched[SAMPLES][PLANES][H][W];
static float low[SAMPLES][PLANES][h][w], kept[SAMPLES][PLANES][h][w];
static const int64_t seeds[SAMPLES] = {11, 12};

static sk_array fine_of(void *data) { return sk_contiguous(data, SK_FLOAT32, SAMPLES, PLANES, H, W); }
static sk_array coarse_of(void *data) { return sk_contiguous(data, SK_FLOAT32, SAMPLES, PLANES, h, w); }

/* A sum in double that no compiler contracts, rounded to float. */
static float rounded(double value) {
    volatile double kept_value = value;
    return (float)kept_value;
}

static sk_plan *haar_plan(sk_operation operation, int64_t rows, int64_t columns) {
    sk_plan_options options = sk_default_plan_options();
    options.operation = (int32_t)operation;
    options.basis = SK_HAAR;
    options.coarse[0] = rows;
    options.coarse[1] = columns;
    options.fine[0] = H;
    options.fine[1] = W;
    options.threads = 2;
    sk_plan *plan = NULL;
    EXPECT_STATUS(sk_plan_create(&plan, &options), SK_OK);
    return plan;
}

/* Ratio 4 both ways is two levels in one pass: the second level works on LL of the first. */
static void haar_of_two_levels(void) {
    enum { rows = 3, columns = 5, fine_rows = 12, fine_columns = 20 };
    static float from[fine_rows][fine_columns], twice[fine_rows][fine_columns], means[rows][columns], half[6][10];
    for (int i = 0; i < fine_rows; ++i) {
        for (int j = 0; j < fine_columns; ++j) from[i][j] = (float)(i * i - 3 * j + i * j);
    }
    sk_plan_options options = sk_default_plan_options();
    options.operation = SK_ANALYSIS;
    options.basis = SK_HAAR;
    options.coarse[0] = rows, options.coarse[1] = columns;
    options.fine[0] = fine_rows, options.fine[1] = fine_columns;
    sk_plan *analysis = NULL, *down = NULL;
    EXPECT_STATUS(sk_plan_create(&analysis, &options), SK_OK);
    options.operation = SK_TRUNCATE;
    EXPECT_STATUS(sk_plan_create(&down, &options), SK_OK);
    const sk_array in = sk_contiguous(from, SK_FLOAT32, 1, 1, fine_rows, fine_columns);
    const sk_array out = sk_contiguous(twice, SK_FLOAT32, 1, 1, fine_rows, fine_columns);
    const sk_array low_out = sk_contiguous(means, SK_FLOAT32, 1, 1, rows, columns);
    EXPECT_STATUS(sk_transform(analysis, &in, &out), SK_OK);
    EXPECT_STATUS(sk_truncate(down, &in, NULL, 0, 0, &low_out), SK_OK);
    /* Whole numbers below 2^20: all sums are exact. */
    for (int i = 0; i < 6; ++i) {
        for (int j = 0; j < 10; ++j) {
            const float a = from[2 * i][2 * j], b = from[2 * i][2 * j + 1], c = from[2 * i + 1][2 * j], d = from[2 * i + 1][2 * j + 1];
            half[i][j] = (a + c + b + d) / 2;
            EXPECT(twice[i][10 + j] == (a + c - b - d) / 2 && twice[6 + i][j] == (a - c + b - d) / 2);
            EXPECT(twice[6 + i][10 + j] == (a - c - b + d) / 2);
        }
    }
    for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < columns; ++j) {
            const float a = half[2 * i][2 * j], b = half[2 * i][2 * j + 1], c = half[2 * i + 1][2 * j], d = half[2 * i + 1][2 * j + 1];
            EXPECT(twice[i][j] == (a + c + b + d) / 2 && twice[i][j] == means[i][j]);
            EXPECT(twice[i][columns + j] == (a + c - b - d) / 2 && twice[rows + i][j] == (a - c + b - d) / 2);
            EXPECT(twice[rows + i][columns + j] == (a - c - b + d) / 2);
        }
    }
    sk_plan_destroy(analysis);
    sk_plan_destroy(down);
}

static void test_haar(void) {
    sk_plan *analysis = haar_plan(SK_ANALYSIS, h, w), *synthesis = haar_plan(SK_SYNTHESIS, h, w);
    sk_plan *down = haar_plan(SK_TRUNCATE, h, w), *up = haar_plan(SK_EXPAND, h, w), *lift = haar_plan(SK_LIFT, h, w);
    const sk_array in = fine_of(x), out = fine_of(y), back = fine_of(again), small = coarse_of(low);
    const double later = 0.5; /* u = 1.5: divided by 4 / 3 */
    EXPECT_STATUS(sk_truncate(down, &in, &later, 1, 1, &small), SK_OK);
    for (int i = 0; i < h; ++i) {
        for (int j = 0; j < w; ++j) {
            const double a = x[1][2][2 * i][2 * j], b = x[1][2][2 * i][2 * j + 1];
            const double c = x[1][2][2 * i + 1][2 * j], d = x[1][2][2 * i + 1][2 * j + 1];
            EXPECT(low[1][2][i][j] == rounded(0.75 * (((a + c) + (b + d)) / 2)));
        }
    }
    EXPECT_STATUS(sk_transform(analysis, &in, &out), SK_OK);
    EXPECT_STATUS(sk_transform(synthesis, &out, &back), SK_OK);
    EXPECT_STATUS(sk_truncate(down, &in, NULL, 0, 0, &small), SK_OK);
    for (int i = 0; i < h; ++i) {
        for (int j = 0; j < w; ++j) {
            const double a = x[1][2][2 * i][2 * j], b = x[1][2][2 * i][2 * j + 1];
            const double c = x[1][2][2 * i + 1][2 * j], d = x[1][2][2 * i + 1][2 * j + 1];
            EXPECT(y[1][2][i][j] == rounded(((a + c) + (b + d)) / 2) && y[1][2][i][w + j] == rounded(((a + c) - (b + d)) / 2));
            EXPECT(y[1][2][h + i][j] == rounded(((a - c) + (b - d)) / 2) && y[1][2][h + i][w + j] == rounded(((a - c) - (b - d)) / 2));
            EXPECT(low[1][2][i][j] == y[1][2][i][j]);
        }
    }
    for (int i = 0; i < SAMPLES * PLANES * H * W; ++i) EXPECT(fabs((double)(&again[0][0][0][0])[i] - (&x[0][0][0][0])[i]) < 4 * 0x1p-24);

    /* Expansion at t: the bands of the noise come back, its low corner is replaced by half of the state. r = 2. */
    const double t = 0.25, u = 1 + t, kappa = 2 / u;
    double aligned = 0;
    sk_noise noise = sk_default_noise();
    noise.values = &in;
    EXPECT_STATUS(sk_expand(up, &small, &t, 1, &noise, 1, &out, &aligned), SK_OK);
    EXPECT(fabs(aligned - 2 * t / u) < 1e-15);
    for (int i = 0; i < h; ++i) {
        for (int j = 0; j < w; ++j) {
            const double half = low[0][1][i][j] * 0.5, e = x[0][1][i][w + j], f = x[0][1][h + i][j], g = x[0][1][h + i][w + j];
            EXPECT(y[0][1][2 * i][2 * j] == rounded(kappa * (half + t * ((f + (e + g)) / 2))));
            EXPECT(y[0][1][2 * i + 1][2 * j + 1] == rounded(kappa * (half + t * ((-f - (e - g)) / 2))));
        }
    }
    /* The same noise from seeds has the same bits as an array of it. */
    sk_noise drawn = sk_default_noise();
    drawn.seeds = seeds;
    drawn.seed_count = SAMPLES;
    EXPECT_STATUS(sk_normal(&back, seeds, SAMPLES, 0, 1), SK_OK);
    noise.values = &back;
    EXPECT_STATUS(sk_expand(up, &small, &t, 1, &noise, 1, &out, NULL), SK_OK);
    static float seeded[SAMPLES][PLANES][H][W];
    const sk_array to = fine_of(seeded);
    EXPECT_STATUS(sk_expand(up, &small, &t, 1, &drawn, 1, &to, NULL), SK_OK);
    EXPECT(memcmp(seeded, y, sizeof(y)) == 0);

    EXPECT_STATUS(sk_lift(lift, &in, &small, &t, 1, 1, &out), SK_OK);
    EXPECT_STATUS(sk_lift(lift, &in, &small, &t, 1, 0, &to), SK_OK);
    const double gamma = 1 / (2 * t / u);
    for (int i = 0; i < H; ++i) {
        for (int j = 0; j < W; ++j) {
            const float(*block)[W] = &x[1][0][i / 2 * 2];
            double mean = 0;
            for (int n = 0; n < 4; ++n) mean += block[n / 2][j / 2 * 2 + n % 2] / 4.0;
            const double half = low[1][0][i / 2][j / 2] * 0.5;
            EXPECT(fabs(y[1][0][i][j] - (u * (half - gamma * mean) + gamma * x[1][0][i][j])) < 32 * 0x1p-24);
            EXPECT(fabs(seeded[1][0][i][j] - (half - mean / t + x[1][0][i][j] / t)) < 32 * 0x1p-24);
        }
    }
    sk_plan_destroy(analysis);
    sk_plan_destroy(synthesis);
    sk_plan_destroy(down);
    sk_plan_destroy(up);
    sk_plan_destroy(lift);

    haar_of_two_levels();

    /* Different ratios of the sides are a table product: blocks of 1 x 2 have the mean of their pixels times sqrt 2. */
    sk_plan *wide = haar_plan(SK_TRUNCATE, H, w);
    static float means[SAMPLES][PLANES][H][w];
    const sk_array half_out = sk_contiguous(means, SK_FLOAT32, SAMPLES, PLANES, H, w);
    EXPECT_STATUS(sk_truncate(wide, &in, NULL, 0, 0, &half_out), SK_OK);
    for (int i = 0; i < H; ++i) {
        for (int j = 0; j < w; ++j) {
            EXPECT(fabs(means[0][2][i][j] - (x[0][2][i][2 * j] + x[0][2][i][2 * j + 1]) * sqrt(0.5)) < 4 * 0x1p-24);
        }
    }
    sk_plan_destroy(wide);

    sk_plan_options options = sk_default_plan_options();
    options.basis = SK_HAAR;
    options.coarse[0] = options.coarse[1] = 4;
    options.fine[0] = options.fine[1] = 12; /* three times is no power of two */
    sk_plan *none = NULL;
    EXPECT_STATUS(sk_plan_create(&none, &options), SK_BAD_SIZE);
    options.fine[0] = options.fine[1] = 9;
    EXPECT_STATUS(sk_plan_create(&none, &options), SK_BAD_SIZE);
    EXPECT(none == NULL);
}

static double linear(const float *line, int count, int stride, double position) {
    const double inside = position < 0 ? 0 : position > count - 1 ? count - 1 : position;
    const int left = (int)inside, right = left + 1 < count ? left + 1 : left;
    return (1 - (inside - left)) * line[left * stride] + (inside - left) * line[right * stride];
}

static void test_pyramid(void) {
    const sk_array in = fine_of(x), small = coarse_of(low), rest = fine_of(y), back = fine_of(again);
    for (int32_t resample = SK_AREA; resample <= SK_BILINEAR; ++resample) {
        EXPECT_STATUS(sk_pyramid_split(&in, resample, &small, &rest, 2), SK_OK);
        EXPECT_STATUS(sk_pyramid_merge(&small, &rest, resample, 0, &back, 2), SK_OK);
        for (int i = 0; i < h; ++i) { /* halves: both means are that of 2 x 2 */
            for (int j = 0; j < w; ++j) {
                double mean = 0;
                for (int n = 0; n < 4; ++n) mean += x[0][1][2 * i + n / 2][2 * j + n % 2] / 4.0;
                EXPECT(fabs(low[0][1][i][j] - mean) < 2 * 0x1p-24);
            }
        }
        for (int i = 0; i < H; ++i) {
            for (int j = 0; j < W; ++j) {
                double up = low[0][1][i / 2][j / 2];
                if (resample == SK_BILINEAR) {
                    float column[h];
                    for (int k = 0; k < h; ++k) column[k] = (float)linear(low[0][1][k], w, 1, (j - 0.5) / 2);
                    up = linear(column, h, 1, (i - 0.5) / 2);
                }
                EXPECT(fabs(y[0][1][i][j] - (x[0][1][i][j] - up)) < 4 * 0x1p-24);
                EXPECT(fabs((double)again[0][1][i][j] - x[0][1][i][j]) < 4 * 0x1p-24);
            }
        }
    }
    /* Blocks of 3 x 4 that do not divide the sides: the last ones hold fewer pixels. */
    static float third[SAMPLES][PLANES][4][4];
    const sk_array odd = sk_contiguous(third, SK_FLOAT32, SAMPLES, PLANES, 4, 4);
    EXPECT_STATUS(sk_pyramid_split(&in, SK_AREA, &odd, &rest, 1), SK_OK);
    EXPECT(third[1][1][3][3] == rounded(((double)x[1][1][9][12] + x[1][1][9][13]) / 2));
    /* No resampling: a difference. */
    EXPECT_STATUS(sk_pyramid_merge(&in, &rest, SK_SAME_SIZE, 1, &back, 1), SK_OK);
    EXPECT(again[1][0][3][5] == y[1][0][3][5] - x[1][0][3][5]);
}

/* (1 - t) a + t b in float; volatile: nothing may be contracted. */
static float mixed(float a, float b, float t) {
    const volatile float first = (1 - t) * a, second = t * b;
    return first + second;
}

static void test_noise_levels(void) {
    static float noisy_fine[SAMPLES][PLANES][H][W], velocity_fine[SAMPLES][PLANES][H][W];
    static float noisy_low[SAMPLES][PLANES][h][w], velocity_low[SAMPLES][PLANES][h][w], e[SAMPLES][PLANES][H][W];
    const sk_array levels[2] = {coarse_of(low), fine_of(x)};
    const sk_array noisy[2] = {coarse_of(noisy_low), fine_of(noisy_fine)}, velocities[2] = {coarse_of(velocity_low), fine_of(velocity_fine)};
    const double times[SAMPLES][2] = {{1, 0.25}, {0.5, 0.75}};
    const uint8_t mask[SAMPLES][2] = {{1, 1}, {1, 0}};
    EXPECT_STATUS(sk_noise_levels(levels, 2, times[0], mask[0], seeds, 1, 4, noisy, velocities, 2), SK_OK);
    const sk_array drawn = fine_of(e);
    EXPECT_STATUS(sk_normal(&drawn, seeds, 1, 5, 1), SK_OK); /* the stream of level 1 */
    for (int i = 0; i < H; ++i) {
        for (int j = 0; j < W; ++j) {
            EXPECT(noisy_fine[0][2][i][j] == mixed(x[0][2][i][j], e[0][2][i][j], 0.25f));
            EXPECT(velocity_fine[1][2][i][j] == rounded((double)e[1][2][i][j] - x[1][2][i][j]));
            EXPECT(noisy_fine[1][2][i][j] == 0);
        }
    }
    EXPECT_STATUS(sk_noise_levels(levels, 2, times[0], NULL, seeds, SAMPLES, 4, noisy, velocities, 1), SK_OK);
    EXPECT(noisy_fine[1][2][1][1] == mixed(x[1][2][1][1], e[1][2][1][1], 0.75f));
}

static void test_moments(void) {
    enum { M = 3, N = 700 };
    static float moments[M][N], before[M][N], feature[N];
    const float row[M] = {0.5f, -1.25f, 0.1f};
    uint64_t state = 4;
    for (int i = 0; i < N; ++i) {
        feature[i] = (float)next_random(&state);
        for (int m = 0; m < M; ++m) moments[m][i] = before[m][i] = (float)next_random(&state);
    }
    EXPECT_STATUS(sk_update_moments(&moments[0][0], M, feature, row, N, SK_FLOAT32, 2), SK_OK);
    for (int m = 0; m < M; ++m) {
        for (int i = 0; i < N; ++i) {
            volatile float product = row[m] * feature[i]; /* volatile: nothing may be contracted */
            EXPECT(moments[m][i] == before[m][i] + product);
        }
    }
    memcpy(moments, before, sizeof(moments));
    float *const to = &moments[0][0];
    EXPECT_STATUS(sk_update_moments(NULL, M, feature, row, N, SK_FLOAT32, 1), SK_NULL_POINTER);
    EXPECT_STATUS(sk_update_moments(to, M, NULL, row, N, SK_FLOAT32, 1), SK_NULL_POINTER);
    EXPECT_STATUS(sk_update_moments(to, M, feature, NULL, N, SK_FLOAT32, 1), SK_NULL_POINTER);
    EXPECT_STATUS(sk_update_moments(to, -1, feature, row, N, SK_FLOAT32, 1), SK_BAD_SIZE);
    EXPECT_STATUS(sk_update_moments(to, M, feature, row, INT64_MAX, SK_FLOAT32, 1), SK_BAD_SIZE);
    EXPECT_STATUS(sk_update_moments(to, INT64_MAX, feature, row, N, SK_FLOAT32, 1), SK_BAD_SIZE);
    EXPECT_STATUS(sk_update_moments(to, M, feature, row, N, SK_FLOAT32, -1), SK_BAD_SIZE);
    EXPECT_STATUS(sk_update_moments(to, M, feature, row, N, 9, 1), SK_UNKNOWN_ENUM);
    EXPECT_STATUS(sk_update_moments(to, M, feature, row, N, SK_FLOAT64, 1), SK_WRONG_DTYPE);
    EXPECT_STATUS(sk_update_moments(to, M, (char *)feature + 1, row, N - 1, SK_FLOAT16, 1), SK_MISALIGNED);
    EXPECT_STATUS(sk_update_moments(to, M, moments[2], row, N, SK_FLOAT32, 1), SK_OVERLAP);
    EXPECT_STATUS(sk_update_moments(to, M, feature, &moments[1][7], N, SK_FLOAT32, 1), SK_OVERLAP);
    EXPECT_STATUS(sk_update_moments(to, M, feature, (const float *)(const void *)((const char *)row + 1), N, SK_FLOAT32, 1), SK_MISALIGNED);
    EXPECT(memcmp(moments, before, sizeof(moments)) == 0);
    EXPECT_STATUS(sk_update_moments(NULL, 0, NULL, row, N, SK_FLOAT32, 1), SK_OK); /* nothing to do is no mistake */
}

/* Calls that differ from a good one in one thing; both outputs stay as they were. */
typedef struct {
    sk_array fine, coarse, out;
    const sk_array *p_fine, *p_coarse, *p_out;
    int32_t resample, threads;
} call;

static void reset(call *c, int split) {
    c->fine = fine_of(x);
    c->coarse = coarse_of(low);
    c->out = fine_of(y);
    c->p_fine = &c->fine;
    c->p_coarse = &c->coarse;
    c->p_out = &c->out;
    c->resample = split ? SK_BILINEAR : SK_AREA;
    c->threads = 2;
}

static sk_status run(const call *c, int split) {
    if (split) return sk_pyramid_split(c->p_fine, c->resample, c->p_coarse, c->p_out, c->threads);
    return sk_pyramid_merge(c->p_coarse, c->p_fine, c->resample, 0, c->p_out, c->threads);
}

#define REFUSED(change, expected)                            \
    for (int split = 0; split < 2; ++split) {                \
        call c;                                              \
        reset(&c, split);                                    \
        change;                                              \
        EXPECT_STATUS(run(&c, split), expected);             \
        EXPECT(memcmp(y, untouched, sizeof(y)) == 0);        \
        EXPECT(memcmp(low, kept, sizeof(low)) == 0);         \
    }

static void test_refused_levels(void) {
    REFUSED(c.p_fine = NULL, SK_NULL_POINTER);
    REFUSED(c.p_coarse = NULL, SK_NULL_POINTER);
    REFUSED(c.p_out = NULL, SK_NULL_POINTER);
    REFUSED(c.out.data = NULL, SK_NULL_POINTER);
    REFUSED(c.coarse.struct_size = 3, SK_BAD_STRUCT);
    REFUSED(c.resample = 3, SK_UNKNOWN_ENUM);
    REFUSED(c.resample = -1, SK_UNKNOWN_ENUM);
    REFUSED(c.fine.dtype = 4, SK_UNKNOWN_ENUM);
    REFUSED(c.coarse.rows = 0, SK_BAD_SIZE);
    REFUSED(c.fine.planes = -1, SK_BAD_SIZE);
    REFUSED(c.fine.stride[0] = INT64_MAX, SK_BAD_SIZE);
    REFUSED(c.threads = -1, SK_BAD_SIZE);
    REFUSED(c.coarse.patch = 2, SK_BAD_PATCH);
    REFUSED((c.coarse.rows = H + 1, c.coarse.stride[1] = (H + 1) * w, c.coarse.stride[0] = (H + 1) * w * PLANES), SK_WRONG_SHAPE);
    REFUSED(c.out.columns = W - 1, SK_WRONG_SHAPE);
    REFUSED(c.fine.samples = 1, SK_WRONG_SHAPE);
    REFUSED(c.coarse.planes = 2, SK_WRONG_SHAPE);
    REFUSED((c.resample = SK_AREA, c.coarse.columns = 6), SK_WRONG_SHAPE); /* blocks of 3 give 5 columns */
    REFUSED(c.coarse.dtype = SK_FLOAT64, SK_WRONG_DTYPE);
    REFUSED(c.fine.dtype = SK_FLOAT16, SK_WRONG_DTYPE);
    REFUSED(c.out.data = (char *)y + 2, SK_MISALIGNED);
    REFUSED(c.out.stride[2] = W - 1, SK_OVERLAP);
    REFUSED(c.out.data = x, SK_OVERLAP);
    REFUSED(c.coarse.data = &y[1][2][9][13], SK_OVERLAP);
    /* Sides that no table of points can number. */
    REFUSED((c.resample = SK_BILINEAR, c.fine.columns = c.out.columns = INT64_C(1) << 32, c.out.stride[2] = INT64_C(1) << 32,
             c.out.stride[1] = INT64_C(1) << 36, c.out.stride[0] = INT64_C(1) << 38), SK_BAD_SIZE);
    call same;
    reset(&same, 0);
    same.resample = SK_SAME_SIZE;
    EXPECT_STATUS(run(&same, 0), SK_WRONG_SHAPE);
    EXPECT_STATUS(run(&same, 1), SK_UNKNOWN_ENUM);
    reset(&same, 1);
    same.coarse.samples = same.fine.samples = same.out.samples = 0; /* nothing to do is no mistake */
    EXPECT_STATUS(run(&same, 1), SK_OK);
    EXPECT(memcmp(y, untouched, sizeof(y)) == 0);
}

typedef struct {
    sk_array levels[2], noisy[2], velocities[2];
    const sk_array *p_levels, *p_noisy, *p_velocities;
    double times[SAMPLES][2];
    const double *p_times;
    int64_t count, seeds[2], seed_count;
    const int64_t *p_seeds;
    const uint8_t *p_mask;
    int32_t threads;
} noising;

static _Alignas(8) float other[2][SAMPLES][PLANES][h][w], more[SAMPLES][PLANES][H][W];

static void prepare(noising *c) {
    memset(c, 0, sizeof(*c));
    c->levels[0] = coarse_of(low);
    c->levels[1] = fine_of(x);
    c->noisy[0] = coarse_of(other[0]);
    c->noisy[1] = fine_of(y);
    c->velocities[0] = coarse_of(other[1]);
    c->velocities[1] = fine_of(more);
    c->p_levels = c->levels;
    c->p_noisy = c->noisy;
    c->p_velocities = c->velocities;
    c->p_times = c->times[0];
    c->count = 2;
    c->seed_count = 1;
    c->p_seeds = c->seeds;
}

#define NOT_NOISED(change, expected)                                                                                          \
    do {                                                                                                                      \
        noising c;                                                                                                            \
        prepare(&c);                                                                                                          \
        change;                                                                                                               \
        EXPECT_STATUS(sk_noise_levels(c.p_levels, c.count, c.p_times, c.p_mask, c.p_seeds, c.seed_count, 0, c.p_noisy,       \
                                      c.p_velocities, c.threads),                                                             \
                      expected);                                                                                              \
        EXPECT(memcmp(y, untouched, sizeof(y)) == 0);                                                                         \
    } while (0)

static void test_refused_noise(void) {
    NOT_NOISED(c.p_levels = NULL, SK_NULL_POINTER);
    NOT_NOISED(c.p_noisy = NULL, SK_NULL_POINTER);
    NOT_NOISED(c.p_velocities = NULL, SK_NULL_POINTER);
    NOT_NOISED(c.p_times = NULL, SK_NULL_POINTER);
    NOT_NOISED(c.p_seeds = NULL, SK_NULL_POINTER);
    NOT_NOISED(c.levels[1].data = NULL, SK_NULL_POINTER);
    NOT_NOISED(c.noisy[1].struct_size = 0, SK_BAD_STRUCT);
    NOT_NOISED(c.levels[0].dtype = -1, SK_UNKNOWN_ENUM);
    NOT_NOISED(c.count = 0, SK_BAD_SIZE);
    NOT_NOISED(c.count = SK_MAX_LEVELS + 1, SK_BAD_SIZE);
    NOT_NOISED(c.threads = -1, SK_BAD_SIZE);
    NOT_NOISED(c.levels[0].rows = -4, SK_BAD_SIZE);
    NOT_NOISED(c.velocities[0].patch = 2, SK_BAD_PATCH);
    NOT_NOISED(c.velocities[0].columns = w - 1, SK_WRONG_SHAPE);
    NOT_NOISED((c.levels[1].samples = c.noisy[1].samples = c.velocities[1].samples = 1), SK_WRONG_SHAPE);
    NOT_NOISED(c.noisy[0].dtype = SK_BFLOAT16, SK_WRONG_DTYPE);
    NOT_NOISED(c.noisy[1].data = (char *)y + 1, SK_MISALIGNED);
    NOT_NOISED(c.noisy[1].data = x, SK_OVERLAP);
    NOT_NOISED(c.velocities[1].data = y, SK_OVERLAP);
    NOT_NOISED(c.noisy[0].data = &y[0][1], SK_OVERLAP); /* a result of another level */
    NOT_NOISED(c.noisy[0].data = x, SK_OVERLAP);
    NOT_NOISED(c.times[1][0] = 1.5, SK_BAD_TIME);
    NOT_NOISED(c.times[0][1] = NAN, SK_BAD_TIME);
    NOT_NOISED(c.seeds[0] = -1, SK_BAD_SEED);
    NOT_NOISED(c.seed_count = 3, SK_BAD_SEED);
    /* Times, seeds and the mask are inputs too. */
    NOT_NOISED(c.p_times = (const double *)(const void *)other[0], SK_OVERLAP);
    NOT_NOISED(c.p_seeds = (const int64_t *)(const void *)&y[1][1][0][0], SK_OVERLAP);
    NOT_NOISED(c.p_mask = (const uint8_t *)other[1] + 5, SK_OVERLAP);
    NOT_NOISED(c.p_times = (const double *)(const void *)((const char *)c.times + 4), SK_MISALIGNED);
    NOT_NOISED(c.p_seeds = (const int64_t *)(const void *)((const char *)c.seeds + 2), SK_MISALIGNED);
    NOT_NOISED(for (int s = 0; s < 2; ++s) {
        c.levels[s].planes = c.noisy[s].planes = c.velocities[s].planes = 0;
        c.levels[s].samples = c.noisy[s].samples = c.velocities[s].samples = INT64_MAX;
    }, SK_BAD_SIZE);
}

int main(void) {
    uint64_t state = 1;
    for (int i = 0; i < SAMPLES * PLANES * H * W; ++i) {
        (&x[0][0][0][0])[i] = (float)next_random(&state);
        (&untouched[0][0][0][0])[i] = (float)i;
    }
    test_haar();
    test_pyramid();
    test_noise_levels();
    test_moments();
    memcpy(y, untouched, sizeof(y));
    memcpy(kept, low, sizeof(low));
    test_refused_levels();
    test_refused_noise();
    return failures != 0;
}
