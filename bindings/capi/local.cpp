// SPDX-License-Identifier: Apache-2.0
// The C functions without a plan that read a few neighbours of each element: pyramids, noised levels, moments.
#include <vector>

#include "check.hpp"
#include "forecast.hpp"
#include "planes.hpp"
#include "pyramid.hpp"
#include "spectral_kernels.h"

namespace {

using namespace sk;

// One level: `fine`, what lies beside it at its size, and `coarse`. Which of them are written is checked elsewhere.
sk_status follow(const Planes& coarse, const Planes& fine, const Planes& beside, Resample resample) {
    if (coarse.dtype != fine.dtype || beside.dtype != fine.dtype) return SK_WRONG_DTYPE;
    if (beside.rows != fine.rows || beside.columns != fine.columns) return SK_WRONG_SHAPE;
    for (const Planes* const p : {&coarse, &beside}) {
        if (p->samples != fine.samples || p->inner != fine.inner) return SK_WRONG_SHAPE;
    }
    const int64_t pairs[2][2] = {{fine.rows, coarse.rows}, {fine.columns, coarse.columns}};
    for (const auto& [large, small] : pairs) {
        if (large > INT32_MAX) return SK_BAD_SIZE;
        if (small > large) return SK_WRONG_SHAPE;
        if (resample == Resample::area && !blocks_fit(large, small)) return SK_WRONG_SHAPE;
        if (resample == Resample::same && small != large) return SK_WRONG_SHAPE;
    }
    return SK_OK;
}

}  // namespace

extern "C" {

sk_status sk_pyramid_split(const sk_array* x, int32_t resample, const sk_array* coarse, const sk_array* detail, int32_t threads) {
    if (resample != SK_AREA && resample != SK_BILINEAR) return SK_UNKNOWN_ENUM;
    if (threads < 0) return SK_BAD_SIZE;
    Split job;
    job.resample = static_cast<Resample>(resample);
    SK_TRY(checked(x, false, job.x));
    SK_TRY(checked(coarse, true, job.coarse));
    SK_TRY(checked(detail, true, job.detail));
    SK_TRY(follow(job.coarse, job.x, job.detail, job.resample));
    SK_TRY(apart(job.coarse, job.x));
    SK_TRY(apart(job.detail, job.x));
    SK_TRY(apart(job.detail, job.coarse));
    return guarded([&] {
        split(job, best_isa(), threads_of(threads));
        return SK_OK;
    });
}

sk_status sk_pyramid_merge(const sk_array* coarse, const sk_array* detail, int32_t resample, int32_t subtract, const sk_array* y,
                           int32_t threads) {
    if (resample < SK_AREA || resample > SK_SAME_SIZE) return SK_UNKNOWN_ENUM;
    if (threads < 0) return SK_BAD_SIZE;
    Merge job;
    job.resample = static_cast<Resample>(resample);
    job.subtract = subtract != 0;
    SK_TRY(checked(coarse, false, job.coarse));
    SK_TRY(checked(detail, false, job.detail));
    SK_TRY(checked(y, true, job.out));
    SK_TRY(follow(job.coarse, job.out, job.detail, job.resample));
    SK_TRY(apart(job.out, job.coarse));
    SK_TRY(apart(job.out, job.detail));
    return guarded([&] {
        merge(job, best_isa(), threads_of(threads));
        return SK_OK;
    });
}

sk_status sk_noise_levels(const sk_array* levels, int64_t count, const double* times, const uint8_t* mask, const int64_t* seeds,
                          int64_t seed_count, uint32_t stream, const sk_array* noisy, const sk_array* velocities, int32_t threads) {
    if (!levels || !noisy || !velocities || !times) return SK_NULL_POINTER;
    if (count < 1 || count > SK_MAX_LEVELS || threads < 0) return SK_BAD_SIZE;
    return guarded([&]() -> sk_status {
        std::vector<NoiseLevel> jobs(count);
        for (int64_t s = 0; s < count; ++s) {
            NoiseLevel& job = jobs[s];
            SK_TRY(checked(levels + s, false, job.x));
            SK_TRY(checked(noisy + s, true, job.noisy));
            SK_TRY(checked(velocities + s, true, job.velocity));
            SK_TRY(numbered(levels[s]));
            for (const Planes* const p : {&job.noisy, &job.velocity}) {
                if (p->dtype != job.x.dtype) return SK_WRONG_DTYPE;
                if (p->samples != job.x.samples || p->inner != job.x.inner || p->rows != job.x.rows || p->columns != job.x.columns) {
                    return SK_WRONG_SHAPE;
                }
            }
            if (job.x.samples != jobs[0].x.samples) return SK_WRONG_SHAPE;
        }
        const int64_t samples = jobs[0].x.samples;
        Bytes inputs[3];
        SK_TRY(checked_seeds(seeds, seed_count, samples, inputs[0]));
        if (samples > INT64_MAX / count) return SK_BAD_SIZE;
        SK_TRY(checked_run(times, samples * count, inputs[1]));
        if (mask) SK_TRY(checked_run(mask, samples * count, inputs[2]));
        for (int64_t n = 0; n < samples * count; ++n) {
            if (!(times[n] >= 0 && times[n] <= 1)) return SK_BAD_TIME;
        }
        // Every result apart from every input and from every other result.
        for (int64_t s = 0; s < count; ++s) {
            SK_TRY(apart(jobs[s].noisy, jobs[s].velocity));
            for (const Bytes& input : inputs) {
                SK_TRY(apart(jobs[s].noisy, input));
                SK_TRY(apart(jobs[s].velocity, input));
            }
            for (int64_t other = 0; other < count; ++other) {
                for (const Planes* const written : {&jobs[s].noisy, &jobs[s].velocity}) {
                    SK_TRY(apart(*written, jobs[other].x));
                    if (other == s) continue;
                    SK_TRY(apart(*written, jobs[other].noisy));
                    SK_TRY(apart(*written, jobs[other].velocity));
                }
            }
        }
        for (int64_t s = 0; s < count; ++s) {
            NoiseLevel& job = jobs[s];
            job.times = times + s;
            job.shown = mask ? mask + s : nullptr;
            job.step = count;
            job.seeds = seed_count == 1 ? nullptr : seeds;
            job.base_seed = seed_count == 1 ? seeds[0] : 0;
            job.stream = stream + static_cast<uint32_t>(s);
        }
        noise_levels(jobs.data(), count, best_isa(), threads_of(threads));
        return SK_OK;
    });
}

sk_status sk_update_moments(float* moments, int64_t count, const void* feature, const float* row, int64_t size, int32_t dtype,
                            int32_t threads) {
    if (dtype < SK_FLOAT32 || dtype > SK_FLOAT64) return SK_UNKNOWN_ENUM;
    if (dtype == SK_FLOAT64) return SK_WRONG_DTYPE;
    if (count < 0 || size < 0 || threads < 0) return SK_BAD_SIZE;
    Bytes factors;
    SK_TRY(checked_run(row, count, factors));
    if (count == 0 || size == 0) return SK_OK;
    Planes written, read;
    const sk_array to = sk_contiguous(moments, SK_FLOAT32, 1, 1, count, size);
    const sk_array from = sk_contiguous(const_cast<void*>(feature), dtype, 1, 1, 1, size);
    SK_TRY(checked(&to, true, written));
    SK_TRY(checked(&from, false, read));
    SK_TRY(apart(written, read));
    SK_TRY(apart(written, factors));
    return guarded([&] {
        update_moments({moments, feature, static_cast<Dtype>(dtype), row, count, size}, best_isa(), threads_of(threads));
        return SK_OK;
    });
}

}  // extern "C"
