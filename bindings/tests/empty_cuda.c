/* SPDX-License-Identifier: Apache-2.0 */
/* A libcuda.so.1 that has none of the functions of a driver. */
int sk_test_empty_cuda(void);
int sk_test_empty_cuda(void) { return 0; }
