// SPDX-License-Identifier: Apache-2.0
// What the C functions ask of their arguments, as statuses; nothing here touches the memory of an array.
#pragma once

#include "job.hpp"
#include "spectral_kernels.h"

namespace sk {

// Everything about one array that does not depend on others; fills `planes`.
sk_status checked(const sk_array* array, bool output, Planes& planes);

// SK_OVERLAP when the memory spans of two arrays touch.
sk_status apart(const Planes& output, const Planes& input);

sk_status checked_times(const double* t, int64_t count, int64_t samples, bool zero_allowed);

sk_status checked_seeds(const int64_t* seeds, int64_t count, int64_t samples);

}  // namespace sk
