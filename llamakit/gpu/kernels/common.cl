// What all kernels share. A unit is what LANES items of a group work on together; with LANES = 1, as CPUs have it, each
// item is a unit of its own, and no barrier is left. Buffers come with an offset in bytes, so that many lie in one.
#define BUF(type, name) GLOBAL type *name, const i64 name##_at
#define USE(type, name) name = (GLOBAL type *)((GLOBAL const u8 *)name + name##_at)

#define INDEX ((i64)GROUP * GROUP_ITEMS + ITEM)
#if LANES > 1
#define UNIT GROUP
#define LANE ITEM
#define UNITS(n)  // the grid is exact
#else
#define UNIT ((int)INDEX)
#define LANE 0
#define UNITS(n) \
    if (UNIT >= (n)) return
#endif

// Memory of a unit: shared by its items, or an item's own. PART: for `lane_sum` and `lane_max`. MEET orders what items do
// in such memory; MEET_FOR_ALL orders buffers too, for a unit whose items write what others of it have read.
#if LANES > 1
#define SPACE SHARED
#define MEET BARRIER
#define MEET_FOR_ALL BARRIER_FOR_ALL
#define PART SHARED float part[LANES]
#else
#define SPACE
#define MEET
#define MEET_FOR_ALL
#define PART LOCAL float *part = 0
#endif

#define MINUS_INFINITY BITS_FLOAT(0xff800000u)

FN float lane_sum(float x, LOCAL float *part) {
#if LANES > 1
    part[LANE] = x;
    BARRIER;
    for (int half_ = LANES / 2; half_ > 0; half_ /= 2) {
        if (LANE < half_) part[LANE] += part[LANE + half_];
        BARRIER;
    }
    x = part[0];
    BARRIER;
#endif
    return x;
}

FN float lane_max(float x, LOCAL float *part) {
#if LANES > 1
    part[LANE] = x;
    BARRIER;
    for (int half_ = LANES / 2; half_ > 0; half_ /= 2) {
        if (LANE < half_ && part[LANE + half_] > part[LANE]) part[LANE] = part[LANE + half_];
        BARRIER;
    }
    x = part[0];
    BARRIER;
#endif
    return x;
}

FN float bfloat_value(u32 bits) { return BITS_FLOAT(bits << 16); }

FN u32 bfloat_bits(float x) {  // to nearest, ties to even; NaN stays NaN
    u32 bits = FLOAT_BITS(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 64u;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

FN float power_of_two(u32 e) { return BITS_FLOAT(e < 2 ? 0x00200000u << e : (e - 1) << 23); }  // half of what E8M0 says

FN u32 word16(GLOBAL const u8 *b, int i) { return (u32)b[2 * i] | (u32)b[2 * i + 1] << 8; }

FN u32 word32(GLOBAL const u8 *b, int i) { return word16(b, 2 * i) | word16(b, 2 * i + 1) << 16; }

FN int nibble(GLOBAL const u8 *b, int i) { return (b[i / 2] >> (i % 2 * 4)) & 15; }
