// SPDX-License-Identifier: Apache-2.0
// Vectors of the instruction set, and how data become slices.

template <class T>
struct Vector {
    typedef T Type __attribute__((vector_size(SK_VECTOR_BYTES)));
};
template <class T>
using V = typename Vector<T>::Type;

// Neighbours as float64. Written out, because GCC makes four instructions of a conversion of 8 floats at once.
template <class T>
inline V<double> doubles(const T* z) {
    if constexpr (SK_VECTOR_BYTES == 64) return V<double>{z[0], z[1], z[2], z[3], z[4], z[5], z[6], z[7]};
    if constexpr (SK_VECTOR_BYTES == 32) return V<double>{z[0], z[1], z[2], z[3]};
    if constexpr (SK_VECTOR_BYTES == 16) return V<double>{z[0], z[1]};
}

// Adding and subtracting `finest` rounds to the grid of 38 bits, `shift` to that of the first slice. They are
// 1.5 * 2^(52 - bits) times the power of two above the line's largest magnitude, times 1 where that is 0.
template <class D>
inline void cut(D& value, D& high, D& low, const D& shift, const D& finest) {
    value = (value + finest) - finest;
    high = (value + shift) - shift;
    low = value - high;
}
