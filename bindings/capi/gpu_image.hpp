// SPDX-License-Identifier: Apache-2.0
// Kernels with their launch rules, as spectral_kernels/aot.py writes them into one file: the image.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "job.hpp"
#include "spectral_kernels.h"

namespace sk {

constexpr int kMostFeatures = 64;

// The values of a launch, by the names that kernels give them; a slot holds a pointer, an integer, or a float's bits.
enum Slot : int {
    kOut,
    kX,
    kOther,
    kSeeds,
    kTimes,
    kTables,
    kBaseSeed = kTables + 4,
    kStream,
    kTime,
    kRatio,
    kOutStrides,
    kXStrides = kOutStrides + 7,
    kOtherStrides = kXStrides + 7,
    kOutSize = kOtherStrides + 7,
    kXSize = kOutSize + 2,
    kOtherSize = kXSize + 2,
    kCorner = kOtherSize + 2,
    kSamples = kCorner + 2,
    kPlanes,
    kPatch,
    kRows,
    kColumns,
    kElements,
    kStart,
    kStop,
    kStride,
    kCount,
    kScratch,
    kFeatures,
    kWeights = kFeatures + kMostFeatures,
    kSlots = kWeights + kMostFeatures,
};

struct Slots {
    int64_t of[kSlots] = {};
};

struct GpuKernel {
    enum class Type : uint8_t { pointer, i64, i32, f32 };
    struct Argument {
        int slot;
        Type type;
        uint32_t multiple;  // the value must be a multiple of this
    };
    struct Limit {
        int slot;
        int64_t least, most;
    };
    struct Factor {
        int slot;
        uint32_t divisor;
    };

    std::string arch, operation, symbol;
    Dtype dtype = Dtype::f32;
    uint32_t threads = 0, shared_bytes = 0;
    std::vector<Argument> arguments;
    std::vector<Limit> limits;
    std::vector<std::vector<Factor>> grid;  // per dimension: the product of ceil(value / divisor)
    const uint8_t* code = nullptr;          // in the image
    std::size_t code_size = 0;
    void* function = nullptr;  // once loaded

    // Whether the class holds these values.
    bool takes(const Slots& values) const;
    // Whether the code runs on a GPU of this compute capability.
    bool runs_on(int major, int minor) const;
};

// SK_BAD_IMAGE unless every byte is as expected.
sk_status read_image(const uint8_t* image, std::size_t size, std::vector<GpuKernel>& kernels);

}  // namespace sk
