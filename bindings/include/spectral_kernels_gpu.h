/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spectral_kernels on NVIDIA GPUs: the operations of spectral_kernels.h, with their bits, on a stream of the caller.
 *
 * The kernels are compiled ahead of time by `python -m spectral_kernels.aot --arch sm_80,sm_90,sm_100 --out DIR`, which
 * writes them into one file, DIR/kernels.skgpu: the image. A program reads or maps that file, or the library carries it
 * (cmake -DSK_EMBED_GPU=DIR). Neither building, linking nor loading the library needs CUDA: sk_gpu_kernels_create() opens
 * the driver, libcuda.so.1, and says SK_NO_DRIVER where there is none.
 *
 * Rules on top of those of spectral_kernels.h:
 *   - Arrays, features and outputs lie in device memory. Structs, times, seeds, weights and `aligned` lie on the host and
 *     are read and written before a function returns.
 *   - The calling thread has a CUDA context, the same one for the kernels, their plans and every launch. A program of the
 *     CUDA runtime has one after its first call: cudaFree(0) will do.
 *   - An operation only enqueues kernels on `stream`, a CUstream or cudaStream_t (null: the default stream): it allocates
 *     no device memory and waits for nothing, so a CUDA graph can capture it. One kernel per call; where samples have
 *     times or seeds of their own, one per sample; for a forecast one per target, and one for the last 15 elements or
 *     fewer of each. After SK_DRIVER_ERROR the first of several kernels may have run.
 *   - Which calls are served is up to the image. The one of `spectral_kernels.aot` holds for float32, float16 and bfloat16,
 *     all arrays of a call of one type: planes of patch 1 up to 256 x 256 on the fine grid, those from a coarse to a fine
 *     grid (sk_gpu_expand, sk_gpu_lift) up to 128 columns on the coarse one; contiguous noise; forecasts from 1 to 16
 *     features. Everything else is SK_NO_KERNEL, and SK_FAST and SK_FLOAT64 always are.
 */
#ifndef SPECTRAL_KERNELS_GPU_H
#define SPECTRAL_KERNELS_GPU_H

#include "spectral_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sk_gpu_kernels sk_gpu_kernels;
typedef struct sk_gpu_plan sk_gpu_plan;

/*
 * Loads the kernels of an image that run on the GPU of the current context. `image` holds `size` bytes and is not needed
 * afterwards; null with size 0 means the embedded one. *kernels is null on failure.
 */
SK_API sk_status sk_gpu_kernels_create(sk_gpu_kernels **kernels, const void *image, int64_t size);

/* Null is fine. Their plans are destroyed before, and the GPU no longer runs what was enqueued. */
SK_API void sk_gpu_kernels_destroy(sk_gpu_kernels *kernels);

/* The CUresult of the last driver call that failed on this thread, after SK_DRIVER_ERROR; 0 if there was none. */
SK_API int32_t sk_gpu_driver_result(void);

/*
 * Builds the tables of an operation and copies them to the GPU (the only function that waits for it, and the only one that
 * allocates there). Options as for sk_plan_create(); `threads` is not used. `kernels` must live as long as the plan.
 */
SK_API sk_status sk_gpu_plan_create(sk_gpu_plan **plan, const sk_gpu_kernels *kernels, const sk_plan_options *options);

/* Null is fine. No other thread may still use the plan, nor the GPU. */
SK_API void sk_gpu_plan_destroy(sk_gpu_plan *plan);

/* As sk_expand(), sk_truncate(), sk_transform(), sk_lift(), sk_normal() and sk_forecast(). */
SK_API sk_status sk_gpu_expand(const sk_gpu_plan *plan, const sk_array *x, const double *t, int64_t t_count,
                               const sk_noise *noise, int32_t align, const sk_array *y, double *aligned, void *stream);
SK_API sk_status sk_gpu_truncate(const sk_gpu_plan *plan, const sk_array *x, const double *t, int64_t t_count,
                                 int32_t normalize, const sk_array *y, void *stream);
SK_API sk_status sk_gpu_transform(const sk_gpu_plan *plan, const sk_array *x, const sk_array *y, void *stream);
SK_API sk_status sk_gpu_lift(const sk_gpu_plan *plan, const sk_array *z, const sk_array *v, const double *t, int64_t t_count,
                             int32_t align, const sk_array *y, void *stream);
SK_API sk_status sk_gpu_normal(const sk_gpu_kernels *kernels, const sk_array *y, const int64_t *seeds, int64_t seed_count,
                               uint32_t noise_stream, void *stream);
SK_API sk_status sk_gpu_forecast(const sk_gpu_kernels *kernels, const void *const *features, int64_t count,
                                 const float *weights, int64_t targets, int64_t size, int32_t dtype, void *out, void *stream);

#ifdef __cplusplus
}
#endif

#endif
