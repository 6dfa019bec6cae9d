// SPDX-License-Identifier: Apache-2.0
#include "gpu_image.hpp"

#include <array>
#include <charconv>
#include <cstring>
#include <string_view>

namespace sk {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "images and launch arguments are little-endian");

constexpr uint8_t kMagic[8] = {'s', 'k', 'g', 'p', 'u', 0, 0, 1};
constexpr uint32_t kMost = 256;  // arguments, limits or factors of one kernel

struct Name {
    std::string_view name;
    int slot, count;  // count > 0: an array, written name[i]
    bool pointer;
};

// The arguments of the kernels in kernels/planes.py, noise.py and forecast.py, and what a grid spans.
constexpr Name kNames[] = {
    {"out", kOut, 0, true},
    {"p_noise", kOut, 0, true},
    {"x", kX, 0, true},
    {"other", kOther, 0, true},
    {"seeds", kSeeds, 0, true},
    {"p_seeds", kSeeds, 0, true},
    {"times", kTimes, 0, true},
    {"rows1", kTables, 0, true},
    {"columns1", kTables + 1, 0, true},
    {"rows2", kTables + 2, 0, true},
    {"columns2", kTables + 3, 0, true},
    {"base_seed", kBaseSeed, 0, false},
    {"stream", kStream, 0, false},
    {"t", kTime, 0, false},
    {"ratio", kRatio, 0, false},
    {"out_strides", kOutStrides, 7, false},
    {"x_strides", kXStrides, 7, false},
    {"other_strides", kOtherStrides, 7, false},
    {"out_size", kOutSize, 2, false},
    {"x_size", kXSize, 2, false},
    {"other_size", kOtherSize, 2, false},
    {"corner", kCorner, 2, false},
    {"samples", kSamples, 0, false},
    {"planes", kPlanes, 0, false},
    {"per_sample", kPlanes, 0, false},
    {"c2", kPlanes, 0, false},  // planes of a sample have one stride
    {"patch", kPatch, 0, false},
    {"rows", kRows, 0, false},
    {"columns", kColumns, 0, false},
    {"elements", kElements, 0, false},
    {"start", kStart, 0, false},
    {"stop", kStop, 0, false},
    {"stride", kStride, 0, false},
    {"count", kCount, 0, false},
    {"global_scratch", kScratch, 0, true},  // of Triton; these kernels use none, and null is passed
    {"profile_scratch", kScratch, 0, true},
    {"features", kFeatures, kMostFeatures, true},
    {"weights", kWeights, kMostFeatures, false},
};

// Reads the image front to back; once something is missing, everything is.
class Reader {
  public:
    Reader(const uint8_t* data, std::size_t size) : at_(data), left_(size) {}

    const uint8_t* bytes(uint64_t count) {
        if (failed_ || count > left_) {
            failed_ = true;
            return nullptr;
        }
        const uint8_t* const start = at_;
        at_ += count;
        left_ -= count;
        return start;
    }

    template <class T>
    T number() {
        T value{};
        if (const uint8_t* const from = bytes(sizeof(T))) std::memcpy(&value, from, sizeof(T));
        return value;
    }

    std::string_view text() {
        const uint32_t length = number<uint32_t>();
        const uint8_t* const from = bytes(length);
        return from ? std::string_view(reinterpret_cast<const char*>(from), length) : std::string_view();
    }

    uint32_t length() {
        const uint32_t count = number<uint32_t>();
        if (count > kMost) failed_ = true;
        return failed_ ? 0 : count;
    }

    int slot(bool* pointer = nullptr) {
        std::string_view name = text();
        int index = -1;
        if (const std::size_t bracket = name.find('['); bracket != name.npos) {
            const std::string_view digits = name.substr(bracket + 1);
            const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
            if (error != std::errc() || end + 1 != digits.data() + digits.size() || *end != ']' || index < 0) failed_ = true;
            name = name.substr(0, bracket);
        }
        for (const Name& known : kNames) {
            if (known.name != name || failed_ || (known.count == 0 ? index != -1 : index < 0 || index >= known.count)) continue;
            if (pointer) *pointer = known.pointer;
            return known.slot + (index < 0 ? 0 : index);
        }
        failed_ = true;
        return 0;
    }

    void fail() { failed_ = true; }
    bool failed() const { return failed_; }
    std::size_t left() const { return left_; }
    const uint8_t* at() const { return at_; }

  private:
    const uint8_t* at_;
    std::size_t left_;
    bool failed_ = false;
};

constexpr std::array<uint32_t, 256> crc_table() {
    std::array<uint32_t, 256> table{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (UINT32_C(0xEDB88320) & -(crc & 1));
        table[byte] = crc;
    }
    return table;
}

uint32_t crc32(const uint8_t* data, std::size_t size) {
    static constexpr auto table = crc_table();
    uint32_t crc = ~UINT32_C(0);
    for (std::size_t i = 0; i < size; ++i) crc = (crc >> 8) ^ table[(crc ^ data[i]) & 0xFF];
    return ~crc;
}

GpuKernel::Argument argument(Reader& in) {
    bool pointer = false;
    GpuKernel::Argument result{in.slot(&pointer), GpuKernel::Type::pointer, 1};
    const std::string_view type = in.text();
    const bool weight = result.slot >= kWeights;
    if (type == "i64") {
        result.type = GpuKernel::Type::i64;
    } else if (type == "i32") {
        result.type = GpuKernel::Type::i32;
    } else if (type == "fp32") {
        result.type = GpuKernel::Type::f32;
    } else if (type.empty() || type[0] != '*') {
        in.fail();
    }
    if (pointer != (result.type == GpuKernel::Type::pointer) || weight != (result.type == GpuKernel::Type::f32)) in.fail();
    result.multiple = in.number<uint32_t>();
    if (result.multiple == 0) in.fail();
    return result;
}

GpuKernel kernel(Reader& in) {
    GpuKernel k;
    k.arch = in.text();
    k.operation = in.text();
    const std::string_view dtype = in.text();
    k.dtype = dtype == "fp32" ? Dtype::f32 : dtype == "fp16" ? Dtype::f16 : Dtype::bf16;
    if (dtype != "fp32" && dtype != "fp16" && dtype != "bf16") in.fail();
    k.symbol = in.text();
    k.threads = in.number<uint32_t>();
    k.shared_bytes = in.number<uint32_t>();
    for (uint32_t n = in.length(); n > 0 && !in.failed(); --n) k.arguments.push_back(argument(in));
    for (uint32_t n = in.length(); n > 0 && !in.failed(); --n) {
        const int slot = in.slot();
        const int64_t least = in.number<int64_t>(), most = in.number<int64_t>();
        k.limits.push_back({slot, least, most});
    }
    for (uint32_t n = in.length(); n > 0 && !in.failed(); --n) {
        std::vector<GpuKernel::Factor>& factors = k.grid.emplace_back();
        for (uint32_t m = in.length(); m > 0 && !in.failed(); --m) {
            const int slot = in.slot();
            factors.push_back({slot, in.number<uint32_t>()});
            if (factors.back().divisor == 0) in.fail();
        }
    }
    if (k.grid.empty() || k.grid.size() > 3 || k.threads == 0 || k.threads > 1024) in.fail();
    k.code_size = in.number<uint64_t>();
    k.code = in.bytes(k.code_size);
    if (k.code_size == 0) in.fail();
    return k;
}

}  // namespace

bool GpuKernel::takes(const Slots& values) const {
    for (const Limit& limit : limits) {
        if (values.of[limit.slot] < limit.least || values.of[limit.slot] > limit.most) return false;
    }
    for (const Argument& argument : arguments) {
        if (static_cast<uint64_t>(values.of[argument.slot]) % argument.multiple != 0) return false;
    }
    return true;
}

bool GpuKernel::runs_on(int major, int minor) const {
    int number = 0;
    if (arch.compare(0, 3, "sm_") != 0) return false;
    const auto [end, error] = std::from_chars(arch.data() + 3, arch.data() + arch.size(), number);
    if (error != std::errc() || end != arch.data() + arch.size() || number / 10 != major) return false;
    // From 9.0 on Triton compiles for the one chip ("sm_90a"); before, code runs on later chips of its generation too.
    return major >= 9 ? number % 10 == minor : number % 10 <= minor;
}

sk_status read_image(const uint8_t* image, std::size_t size, std::vector<GpuKernel>& kernels) {
    Reader in(image, size);
    const uint8_t* const magic = in.bytes(sizeof(kMagic));
    if (!magic || std::memcmp(magic, kMagic, sizeof(kMagic)) != 0) return SK_BAD_IMAGE;
    const auto checksum = in.number<uint32_t>();
    if (in.failed() || crc32(in.at(), in.left()) != checksum) return SK_BAD_IMAGE;
    for (uint32_t n = in.number<uint32_t>(); n > 0 && !in.failed(); --n) kernels.push_back(kernel(in));
    return in.failed() || in.left() != 0 ? SK_BAD_IMAGE : SK_OK;
}

}  // namespace sk
