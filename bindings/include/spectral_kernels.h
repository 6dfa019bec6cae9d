/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spectral_kernels: spectral resolution changes for diffusion states, on a CPU, with the bits of every other backend.
 *
 * What is computed, with orthonormal basis matrices T_n (rows are basis vectors, ascending frequency), per plane:
 *
 *     up  A = T_H[:h]^T T_h     lowpass  L = T_H[:h]^T T_H[:h]     r = sqrt(H W / (h w))     u = 1 + (r - 1) t
 *
 *     sk_expand      y = kappa (A_H x A_W^T + t T_H^T (mask * E) T_W)     kappa = r / u, aligned time t' = r t / u;
 *                    the mask is 0 in the corner [:h, :w]                 without alignment kappa = 1, t' = t
 *     sk_truncate    y = A_H^T x A_W / kappa                              without normalisation not divided
 *     sk_transform   y = T x T^T, or T^T x T
 *     sk_lift        v' = u (A_H v A_W^T - (L_H z L_W^T) / t') + z / t'   without alignment u = 1, t' = t
 *
 * Beside these: noise, forecasts of features, pyramids.
 *
 * Numbers: float32, float16 and bfloat16 arrays give the same bits on every machine, for any number of threads and any
 * strides, correctly rounded in practice; float64 arrays are computed in plain float64 (1e-12). A NaN or an infinity
 * makes its plane the quiet NaN and no other. Noise is Philox 4x32-10, a pure function of (seed, stream, plane of the
 * sample, row, column), so a sample has the same noise alone and in any batch.
 *
 * Rules that hold for every function:
 *   - It returns an sk_status, never throws, never aborts, prints nothing. On any status but SK_OK no array was written.
 *   - Strides count elements and may be zero or negative for inputs. An output must not overlap an input or itself; times,
 *     seeds, weights and masks are inputs too.
 *   - A plan does not change once made: any number of threads may use it at once. sk_plan_destroy is the exception.
 *   - Enums travel as int32_t, because a C++ enum that holds an unknown value is undefined; any number may be given.
 *   - Structs begin with struct_size, set by sk_default_*(), so that later versions can add fields at the end.
 */
#ifndef SPECTRAL_KERNELS_H
#define SPECTRAL_KERNELS_H

#include <stdint.h>

#define SK_VERSION_MAJOR 0
#define SK_VERSION_MINOR 1
#define SK_VERSION_PATCH 0

#if defined(_WIN32) && defined(SK_SHARED)
#define SK_API __declspec(dllimport)
#elif defined(__GNUC__)
#define SK_API __attribute__((visibility("default")))
#else
#define SK_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What can go wrong. Numbers are never reused; sk_status_string() says them in words. */
typedef enum sk_status {
    SK_OK = 0,
    SK_NULL_POINTER = 1,   /* a pointer that must not be null is null */
    SK_BAD_STRUCT = 2,     /* struct_size is not one this library knows, or a reserved field is not 0: sk_default_*() */
    SK_UNKNOWN_ENUM = 3,   /* an enum value this library does not know */
    SK_BAD_SIZE = 4,       /* a size is negative, zero or too large, or the coarse one does not lead to the fine one */
    SK_BAD_PATCH = 5,      /* patch below 1, or a side that is not a multiple of it */
    SK_WRONG_SHAPE = 6,    /* an array does not have the plane size of the plan, or batches differ */
    SK_WRONG_DTYPE = 7,    /* float64 and other types mixed, or not what the plan was made for */
    SK_WRONG_PLAN = 8,     /* the plan was made for another operation */
    SK_MISALIGNED = 9,     /* an array, or times, seeds or weights, is not aligned to its element size */
    SK_OVERLAP = 10,       /* an output overlaps an input, another output or itself */
    SK_BAD_TIME = 11,      /* t is not in [0, 1] (for sk_lift: in (0, 1]; for sk_truncate without normalisation: 0), or there
                              is neither one t nor one per sample */
    SK_BAD_SEED = 12,      /* a negative seed, seed + samples beyond 2^63, or neither one seed nor one per sample */
    SK_NO_NOISE = 13,      /* noise is needed where t > 0, from seeds or from an array, not both */
    SK_OUT_OF_MEMORY = 14, /* an allocation failed */
    SK_INTERNAL = 15,      /* a defect of the library: please report it */
    SK_BAD_STEP = 16,      /* steps do not ascend in [0, num_steps], or a target does not lie from the last of them to the end */
    SK_BAD_OPTION = 17,    /* an option of a forecast lies outside of the range stated with it */
    SK_SINGULAR = 18,      /* steps that do not determine the fit: a larger ridge, a lower degree or more steps will do */
    /* From spectral_kernels_gpu.h only. */
    SK_NO_DRIVER = 32,   /* no CUDA driver, or no GPU, on this machine */
    SK_NO_CONTEXT = 33,  /* the thread has no current CUDA context */
    SK_BAD_IMAGE = 34,   /* not an image of kernels that this version reads, or none is embedded */
    SK_WRONG_GPU = 35,   /* no kernel of the image was compiled for this GPU */
    SK_NO_KERNEL = 36,   /* no kernel of the image takes this dtype, size, patch or precision */
    SK_DRIVER_ERROR = 37 /* a call of the CUDA driver failed: sk_gpu_driver_result() */
} sk_status;

typedef enum sk_dtype { SK_FLOAT32 = 0, SK_FLOAT16 = 1, SK_BFLOAT16 = 2, SK_FLOAT64 = 3 } sk_dtype;

/*
 * Orthonormal DCT-II; real Fourier 1, cos 1, sin 1, ...; Haar, whose coarse state is its lowpass band (T_h = 1) and whose
 * fine sides are the coarse ones times powers of two. At ratio 2, 4, 8 or 16 both ways Haar is computed on blocks of that
 * size: one read, one write, and a NaN stays in its block; every level after the first works on LL of the one before.
 */
typedef enum sk_basis { SK_DCT = 0, SK_FFT = 1, SK_HAAR = 2 } sk_basis;
typedef enum sk_operation { SK_EXPAND = 0, SK_TRUNCATE = 1, SK_ANALYSIS = 2, SK_SYNTHESIS = 3, SK_LIFT = 4 } sk_operation;

/* SK_EXACT promises bits. SK_FAST computes in float32, relative error below (h + w + H + W) 2^-24, no promise of bits. */
typedef enum sk_precision { SK_EXACT = 0, SK_FAST = 1 } sk_precision;

/* Longest side of a plane. */
#define SK_MAX_SIDE 8192

/* Version of the library that runs, as 10000 major + 100 minor + patch. */
SK_API int32_t sk_version(void);

/* Never null; static memory; also for values that are no status. */
SK_API const char *sk_status_string(int32_t status);

/*
 * Planes in memory. Element (b, p, i, j), patch P: data[b stride[0] + p stride[1] + (i / P) stride[2]
 * + (i % P) patch_stride[0] + (j / P) stride[3] + (j % P) patch_stride[1]]. Planes of a sample are numbered by p: that
 * number is the noise's. patch = 2 reads the 2 x 2 tokens of FLUX and Qwen-Image in place.
 */
typedef struct sk_array {
    int64_t struct_size;
    void *data; /* not written where an array is an input */
    int32_t dtype;
    int32_t patch;
    int64_t samples, planes, rows, columns;
    int64_t stride[4];
    int64_t patch_stride[2]; /* used when patch > 1 */
} sk_array;

/* A contiguous array [samples, planes, rows, columns]. */
SK_API sk_array sk_contiguous(void *data, int32_t dtype, int64_t samples, int64_t planes, int64_t rows, int64_t columns);

typedef struct sk_plan_options {
    int64_t struct_size;
    int32_t operation; /* SK_EXPAND */
    int32_t basis;     /* SK_DCT */
    int32_t dtype;     /* SK_FLOAT32; SK_FLOAT64 makes a plan for float64 arrays, any other one for the three others */
    int32_t precision; /* SK_EXACT */
    int64_t coarse[2]; /* h, w; SK_ANALYSIS and SK_SYNTHESIS: where SK_HAAR leads down to, ignored in the other bases */
    int64_t fine[2];   /* H, W */
    int32_t threads;   /* 0: as many as the machine has; those of an OpenMP runtime where the process has one */
    int32_t reserved;  /* 0 */
} sk_plan_options;

/* The defaults noted above, sizes 0. */
SK_API sk_plan_options sk_default_plan_options(void);

typedef struct sk_plan sk_plan;

/*
 * Builds the tables of an operation between two grids, *plan is null on failure. Milliseconds at a side of 128, half a second
 * at 1024, half a minute and 1.5 GB at 4096; twice that where the grids are not square.
 */
SK_API sk_status sk_plan_create(sk_plan **plan, const sk_plan_options *options);

/* Null is fine. No other thread may still use the plan. */
SK_API void sk_plan_destroy(sk_plan *plan);

/* Noise for sk_expand: either `values` [.., H, W], spectral, or seeds. */
typedef struct sk_noise {
    int64_t struct_size;
    const sk_array *values;
    const int64_t *seeds; /* 0 <= seed < 2^63 */
    int64_t seed_count;   /* 1: sample b has the seed seeds[0] + b; or one per sample */
    uint32_t stream;      /* independent noise for the same seed, for instance one per stage */
    uint32_t reserved;    /* 0 */
} sk_noise;

SK_API sk_noise sk_default_noise(void);

/*
 * x [h, w] -> y [H, W]. `t` holds one coarse time, or one per sample, in [0, 1]. `noise` may be null when every t is 0.
 * `aligned` (may be null, or t itself) receives t', as many as there are t. align = 0: kappa = 1, t' = t.
 */
SK_API sk_status sk_expand(const sk_plan *plan, const sk_array *x, const double *t, int64_t t_count, const sk_noise *noise,
                           int32_t align, const sk_array *y, double *aligned);

/*
 * x [H, W] -> y [h, w]. normalize = 1 divides by kappa at the coarse time t, one or one per sample: a state in
 * full-resolution coordinates becomes the coarse state at t. At t = 0, which a null t with t_count 0 stands for, that is the
 * division by r with which a clean image keeps its mean. normalize = 0 takes no other t.
 */
SK_API sk_status sk_truncate(const sk_plan *plan, const sk_array *x, const double *t, int64_t t_count, int32_t normalize,
                             const sk_array *y);

/* x [H, W] -> y [H, W]: the spectrum (plan for SK_ANALYSIS) or the inverse (SK_SYNTHESIS). */
SK_API sk_status sk_transform(const sk_plan *plan, const sk_array *x, const sk_array *y);

/*
 * State z [H, W] and velocity v [h, w] of the coarse model at coarse time t in (0, 1] -> velocity y [H, W]. align = 0 is for
 * states expanded without alignment and truncated without normalisation: u = 1, t' = t.
 */
SK_API sk_status sk_lift(const sk_plan *plan, const sk_array *z, const sk_array *v, const double *t, int64_t t_count,
                         int32_t align, const sk_array *y);

/* Standard normal deviates on the grid 2^-17, |x| < 6.5; the noise of sk_expand on its own. patch must be 1. */
SK_API sk_status sk_normal(const sk_array *y, const int64_t *seeds, int64_t seed_count, uint32_t stream, int32_t threads);

/*
 * Feature forecasting: out[g][i] = sum over k of weights[g][k] features[k][i], float32, k ascending from the oldest feature,
 * every product and every sum rounded on its own. `features` are `count` runs of `size` elements, `out` is [targets][size];
 * `dtype` is that of features and of out: float32, float16 or bfloat16.
 */
SK_API sk_status sk_forecast(const void *const *features, int64_t count, const float *weights, int64_t targets, int64_t size,
                             int32_t dtype, void *out, int32_t threads);

/*
 * The update of moments, which stand for all features of a run: moments[m][i] += row[m] feature[i], float32, product and
 * sum rounded apart. `moments` is [count][size] and is read and written; `dtype` is the feature's: float32 or a half type.
 */
SK_API sk_status sk_update_moments(float *moments, int64_t count, const void *feature, const float *row, int64_t size,
                                   int32_t dtype, int32_t threads);

/* The largest degree of a fit. */
#define SK_MAX_DEGREE 255

typedef struct sk_fit {
    int64_t struct_size;
    int64_t num_steps; /* of the run, at least 1; sk_default_fit() leaves it 0 */
    int32_t degree;    /* 4; highest polynomial, 0 to SK_MAX_DEGREE */
    int32_t reserved;  /* 0 */
    double ridge;      /* 0.1; regularisation, at least 0; with 0, degree + 1 steps are needed */
    double blend;      /* 0.5; share of the fit in [0, 1], the rest is the line through the last two features */
} sk_fit;

SK_API sk_fit sk_default_fit(void);

/*
 * The weights [target][step] of sk_forecast: for each target
 *
 *     w = blend Phi (Phi^T Phi + ridge I)^-1 phi(target) + (1 - blend) line
 *     phi(x) = [T_0(tau) ... T_degree(tau)],  tau = 2 x / num_steps - 1,  the rows of Phi are phi of the steps
 *
 * in float64, one operation at a time in the order of reference/forecast.py, rounded once: the bits of Python's weights.
 * `steps`, the `count` steps evaluated, ascend in [0, num_steps]; targets lie from the last of them to num_steps. They count
 * steps, or, for a fit over the noise levels s_0 > s_1 > ... of a run, are positions num_steps (s_0 - s_i) / (s_0 - s_end).
 */
SK_API sk_status sk_chebyshev_weights(const sk_fit *fit, const double *steps, int64_t count, const double *targets,
                                      int64_t target_count, float *weights);

/*
 * The same forecast over [S_0 ... S_degree, h_{K-1}, h_K], the moments that sk_update_moments keeps and the last two features:
 * weights [target][degree + 3]. While there is one feature, h_{K-1} is left out.
 */
SK_API sk_status sk_moment_weights(const sk_fit *fit, const double *steps, int64_t count, const double *targets,
                                   int64_t target_count, float *weights);

/* phi(step), degree + 1 numbers: the `row` with which sk_update_moments takes in the feature of a step. */
SK_API sk_status sk_chebyshev_row(const sk_fit *fit, double step, float *row);

/*
 * Which steps of a run are evaluated: the first `warmup`, then one when (skipped in a row + 1) is a multiple of floor(window),
 * which grows by `flex` after each of these, kept to three decimals. evaluated [num_steps] is 1 there, else 0. window and
 * warmup are at least 1, flex at least 0; 2, 5 and 0.75 evaluate 14 steps of 50.
 */
SK_API sk_status sk_evaluation_steps(int64_t num_steps, double window, int64_t warmup, double flex, uint8_t *evaluated);

/*
 * Pyramids, level by level from the finest: coarse = down(x), detail = x - up(coarse); back: x = up(coarse) + detail.
 *
 *     SK_AREA        down: mean of blocks of ceil(H / h) x ceil(W / w) pixels, the last ones may be smaller; up: nearest
 *     SK_BILINEAR    linear interpolation at pixel centres, both ways; exactly half is the mean of 2 x 2
 *     SK_SAME_SIZE   no resampling: for levels brought to one size by sk_truncate and sk_expand (merge only)
 *
 * Sums are float32 (of float64 arrays float64), each operation rounded once, in the order of reference/pyramid.py; a coarse
 * pixel is rounded to its type before its detail is taken. A NaN stays with the pixels computed from it. All arrays of a
 * call have one dtype.
 */
typedef enum sk_resample { SK_AREA = 0, SK_BILINEAR = 1, SK_SAME_SIZE = 2 } sk_resample;

/* x [H, W] -> coarse [h, w] and detail [H, W], whose bits depend on coarse as it is stored. */
SK_API sk_status sk_pyramid_split(const sk_array *x, int32_t resample, const sk_array *coarse, const sk_array *detail,
                                  int32_t threads);

/* coarse [h, w] and detail [H, W] -> y = up(coarse) + detail; subtract = 1: y = detail - up(coarse). */
SK_API sk_status sk_pyramid_merge(const sk_array *coarse, const sk_array *detail, int32_t resample, int32_t subtract,
                                  const sk_array *y, int32_t threads);

/* Most levels of one call. */
#define SK_MAX_LEVELS 64

/*
 * Every level at its own time in one call: noisy = (1 - t) x + t e, velocity = e - x, with e the noise of sk_normal in
 * stream + level (modulo 2^32). levels, noisy and velocities hold `count` arrays; times is [samples][count], each in [0, 1];
 * where mask [samples][count] is 0 the noisy level is 0; mask may be null. t and 1 - t are rounded to float32, in which all is
 * computed, each operation rounded once (float64 for float64).
 */
SK_API sk_status sk_noise_levels(const sk_array *levels, int64_t count, const double *times, const uint8_t *mask,
                                 const int64_t *seeds, int64_t seed_count, uint32_t stream, const sk_array *noisy,
                                 const sk_array *velocities, int32_t threads);

#ifdef __cplusplus
}
#endif

#endif
