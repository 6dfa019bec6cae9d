/* SPDX-License-Identifier: Apache-2.0 */
/* Without a CUDA driver the library loads, works on the CPU, and says what is missing. */
#include "expect.h"
#include "spectral_kernels_gpu.h"

int main(void) {
    static const uint8_t image[64] = "skgpu";
    sk_gpu_kernels *kernels = (sk_gpu_kernels *)1;
    sk_gpu_plan *plan = (sk_gpu_plan *)1;
    const sk_plan_options options = sk_default_plan_options();
    EXPECT_STATUS(sk_gpu_kernels_create(&kernels, image, (int64_t)sizeof(image)), SK_NO_DRIVER);
    EXPECT(kernels == NULL);
    EXPECT_STATUS(sk_gpu_kernels_create(&kernels, image, (int64_t)sizeof(image)), SK_NO_DRIVER);
    EXPECT_STATUS(sk_gpu_plan_create(&plan, kernels, &options), SK_NULL_POINTER);
    EXPECT(plan == NULL);
    EXPECT(sk_gpu_driver_result() == 0);

    int64_t seed = 1;
    float noise[16] = {0};
    const sk_array out = sk_contiguous(noise, SK_FLOAT32, 1, 1, 4, 4);
    EXPECT_STATUS(sk_normal(&out, &seed, 1, 0, 1), SK_OK);
    EXPECT(noise[0] != 0);
    return failures != 0;
}
