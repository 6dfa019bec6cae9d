// SPDX-License-Identifier: Apache-2.0
// Philox 4x32-10 and the normal quantile for a run of 16 columns; the contract is reference/noise.py.

struct Words {
    uint32_t word[4][kLanes];
};

inline void philox(uint64_t seed, uint32_t stream, uint32_t plane, uint32_t group, uint32_t column, Words& words) {
    uint64_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
    for (int i = 0; i < kLanes; ++i) {
        c0[i] = column + static_cast<uint32_t>(i);
        c1[i] = group;
        c2[i] = plane;
        c3[i] = stream;
    }
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < kLanes; ++i) {
            const uint64_t a = c0[i] * 0xD2511F53u, b = c2[i] * 0xCD9E8D57u;
            c0[i] = (b >> 32) ^ c1[i] ^ k0;
            c1[i] = b & 0xFFFFFFFFu;
            c2[i] = (a >> 32) ^ c3[i] ^ k1;
            c3[i] = a & 0xFFFFFFFFu;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < kLanes; ++i) {
        words.word[0][i] = static_cast<uint32_t>(c0[i]);
        words.word[1][i] = static_cast<uint32_t>(c1[i]);
        words.word[2][i] = static_cast<uint32_t>(c2[i]);
        words.word[3][i] = static_cast<uint32_t>(c3[i]);
    }
}

constexpr float kLog2[8] = {0.584962785243988f,    0.9617959856987f,     -0.32063233852386475f,  0.14252637326717377f,
                            -0.07058967649936676f, 0.03746293857693672f, -0.025123203173279762f, 0.014778721146285534f};
constexpr float kQuantile[8] = {2.0574676990509033f,   1.1211278438568115f,     0.1580686867237091f,
                                0.01924712397158146f,  0.001744984881952405f,   0.00011625913612078875f,
                                6.42859231447801e-06f, 3.6190027685734094e-07f};

inline float polynomial(const float (&coefficients)[8], float x) {
    float value = coefficients[7];
    for (int i = 6; i >= 0; --i) value = value * x + coefficients[i];
    return value;
}

inline float log2_of(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    const float exponent = static_cast<float>(static_cast<int32_t>(bits >> 23)) - 127.0f;
    const uint32_t fraction = (bits & 0x7FFFFFu) | 0x3F800000u;
    float mantissa;
    __builtin_memcpy(&mantissa, &fraction, 4);
    return exponent + polynomial(kLog2, mantissa - 1.5f);
}

// The word's deviate on the grid 2^-17: quantile of the low 31 bits, sign of the top bit.
inline void deviates(const uint32_t (&word)[kLanes], float (&out)[kLanes]) {
    for (int i = 0; i < kLanes; ++i) {
        const float m = static_cast<float>(static_cast<int32_t>(word[i] & 0x7FFFFFFFu)) + 0.5f;
        const float level = log2_of(32.0f - log2_of(m));
        const float x = polynomial(kQuantile, level - 2.5f);
        uint32_t bits;
        __builtin_memcpy(&bits, &x, 4);
        bits ^= word[i] & 0x80000000u;
        float with_sign;
        __builtin_memcpy(&with_sign, &bits, 4);
        out[i] = (with_sign + 96.0f) - 96.0f;
    }
}
