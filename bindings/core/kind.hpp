// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace sk {

// Maps between a coarse and a fine grid, as in reference/bases.py.
enum class Kind { analysis, synthesis, up, down, lowpass };

}  // namespace sk
