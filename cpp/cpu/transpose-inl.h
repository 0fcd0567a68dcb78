// Words of sixteen rows to sixteen words of a row. Included by units of kernels, inside their anonymous namespace.

typedef uint32_t FourWords __attribute__((vector_size(16)));
#if defined(__clang__)
#define LK_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // GCC has the other name from version 12 on
#define LK_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, FourWords{__VA_ARGS__})
#endif

// Words [lane][n_word], rows `stride` bytes apart, to [n_word][lane]; n_word a multiple of 4.
LK_INLINE void transpose(const uint8_t* rows, int64_t stride, int64_t n_word, uint8_t* out) {
    for (int64_t word = 0; word < n_word; word += 4)
        for (int lane = 0; lane < kLanes; lane += 4) {
            FourWords x[4];
            for (int i = 0; i < 4; ++i) __builtin_memcpy(&x[i], rows + (lane + i) * stride + 4 * word, 16);
            const FourWords a = LK_SHUFFLE(x[0], x[1], 0, 4, 1, 5);
            const FourWords b = LK_SHUFFLE(x[2], x[3], 0, 4, 1, 5);
            const FourWords c = LK_SHUFFLE(x[0], x[1], 2, 6, 3, 7);
            const FourWords d = LK_SHUFFLE(x[2], x[3], 2, 6, 3, 7);
            x[0] = LK_SHUFFLE(a, b, 0, 1, 4, 5), x[1] = LK_SHUFFLE(a, b, 2, 3, 6, 7);
            x[2] = LK_SHUFFLE(c, d, 0, 1, 4, 5), x[3] = LK_SHUFFLE(c, d, 2, 3, 6, 7);
            for (int i = 0; i < 4; ++i) __builtin_memcpy(out + (word + i) * kPlane + 4 * lane, &x[i], 16);
        }
}
