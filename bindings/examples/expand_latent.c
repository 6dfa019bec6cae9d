/* SPDX-License-Identifier: Apache-2.0 */
/* expand_latent IN OUT CHANNELS HEIGHT WIDTH T SEED: a raw float32 latent at time T to twice its size. */
#include <math.h>
#include <spectral_kernels.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int expand(const char *from, const char *to, int64_t c, int64_t h, int64_t w, double t, int64_t seed) {
    const size_t count = (size_t)(c * h * w);
    float *x = malloc(count * sizeof *x), *y = malloc(4 * count * sizeof *y);
    FILE *file = fopen(from, "rb");
    const int read = x && y && file && fread(x, sizeof *x, count, file) == count;
    if (file) fclose(file);

    sk_plan_options options = sk_default_plan_options();
    options.coarse[0] = h, options.coarse[1] = w, options.fine[0] = 2 * h, options.fine[1] = 2 * w;
    sk_plan *plan = NULL;
    sk_status status = sk_plan_create(&plan, &options);

    const sk_array in = sk_contiguous(x, SK_FLOAT32, 1, c, h, w), out = sk_contiguous(y, SK_FLOAT32, 1, c, 2 * h, 2 * w);
    sk_noise noise = sk_default_noise();
    noise.seeds = &seed, noise.seed_count = 1;
    double aligned = 0;
    if (read && status == SK_OK) status = sk_expand(plan, &in, &t, 1, &noise, 1, &out, &aligned);
    sk_plan_destroy(plan);
    if (!read || status != SK_OK) {
        fprintf(stderr, "%s: %s\n", from, read ? sk_status_string(status) : "cannot be read");
    } else {
        file = fopen(to, "wb");
        status = file && fwrite(y, sizeof *y, 4 * count, file) == 4 * count ? SK_OK : SK_INTERNAL;
        if (file) fclose(file);
        printf("%s: continue at t = %.6f\n", to, aligned);
    }
    free(x), free(y);
    return !read || status != SK_OK;
}

/* Without noise a constant latent stays that constant: an aligned state keeps its mean. */
static int self_check(const char *path) {
    float x[2 * 6 * 10], y[4 * 2 * 6 * 10];
    for (size_t i = 0; i < sizeof x / sizeof *x; ++i) x[i] = 0.75f;
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(x, sizeof x, 1, file) != 1 || fclose(file) != 0) return 1;
    if (expand(path, path, 2, 6, 10, 0.0, 1) != 0) return 1;
    file = fopen(path, "rb");
    if (!file || fread(y, sizeof y, 1, file) != 1 || fclose(file) != 0) return 1;
    for (size_t i = 0; i < sizeof y / sizeof *y; ++i) {
        if (fabsf(y[i] - 0.75f) > 1e-6f) return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--self-check") == 0) return self_check(argv[2]);
    if (argc != 8) return fprintf(stderr, "expand_latent IN OUT CHANNELS HEIGHT WIDTH T SEED\n"), 2;
    return expand(argv[1], argv[2], atoll(argv[3]), atoll(argv[4]), atoll(argv[5]), atof(argv[6]), atoll(argv[7]));
}
