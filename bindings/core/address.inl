// SPDX-License-Identifier: Apache-2.0
// Where elements lie. Divisions cost as much as a row of arithmetic, so axes that are not cut into patches have none.

template <class T>
inline void clear(T* from, int64_t count) {
    if (count > 0) __builtin_memset(from, 0, count * sizeof(T));
}

inline int64_t offset_of(int64_t i, int64_t patch, int64_t stride, int64_t patch_stride) {
    return patch == 1 ? i * stride : i / patch * stride + i % patch * patch_stride;
}

inline int64_t row_offset(const Planes& p, int64_t i) { return offset_of(i, p.patch_rows, p.stride[3], p.stride[4]); }

inline int64_t column_offset(const Planes& p, int64_t j) { return offset_of(j, p.patch_columns, p.stride[5], p.stride[6]); }

inline Run columns_from(const Planes& p, int64_t first) {
    Run run{{}, static_cast<int>(p.columns - first < kLanes ? p.columns - first : kLanes), true};
    for (int i = 0; i < run.count; ++i) {
        run.offset[i] = column_offset(p, first + i);
        run.contiguous = run.contiguous && run.offset[i] == run.offset[0] + i;
    }
    return run;
}

inline int64_t plane_offset(const Planes& p, int64_t plane) {
    const int64_t inner = plane % p.inner, outer = plane / p.inner % p.outer, sample = plane / p.inner / p.outer;
    return sample * p.stride[0] + outer * p.stride[1] + inner * p.stride[2];
}
