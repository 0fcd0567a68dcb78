// Rows of a file's blocks to panels: see llamakit/gpu/packed.py. `code`: of value `i` of the 32 that `sub` counts in a block.
FN u32 bit_of(GLOBAL const u8 *b, int i) { return ((u32)b[i / 8] >> (i % 8)) & 1u; }

FN u32 code(GLOBAL const u8 *b, int sub, int i) {
#if defined(TYPE_F16) || defined(TYPE_BF16)
    return word16(b, i);
#elif defined(TYPE_Q4_0) || defined(TYPE_Q4_1) || defined(TYPE_IQ4_NL) || defined(TYPE_MXFP4)
    return ((u32)b[BYTES - 16 + i % 16] >> (i / 16 * 4)) & 15u;
#elif defined(TYPE_Q5_0) || defined(TYPE_Q5_1)
    return (((u32)b[BYTES - 16 + i % 16] >> (i / 16 * 4)) & 15u) | bit_of(b + BYTES - 20, i) << 4;
#elif defined(TYPE_Q8_0)
    return (u32)b[2 + i] ^ 128u;
#elif defined(TYPE_Q8_K)
    return (u32)b[4 + 32 * sub + i] ^ 128u;
#elif defined(TYPE_Q2_K)
    return ((u32)b[16 + 32 * (sub / 4) + i] >> (2 * (sub % 4))) & 3u;
#elif defined(TYPE_Q3_K)
    return (((u32)b[32 + 32 * (sub / 4) + i] >> (2 * (sub % 4))) & 3u) | (((u32)b[i] >> sub) & 1u) << 2;
#elif defined(TYPE_Q4_K)
    return ((u32)b[16 + 32 * (sub / 2) + i] >> (4 * (sub % 2))) & 15u;
#elif defined(TYPE_Q5_K)
    return (((u32)b[48 + 32 * (sub / 2) + i] >> (4 * (sub % 2))) & 15u) | (((u32)b[16 + i] >> sub) & 1u) << 4;
#elif defined(TYPE_Q6_K)
    u32 low = ((u32)b[64 * (sub / 4) + 32 * (sub % 2) + i] >> (sub % 4 / 2 * 4)) & 15u;
    return low | (((u32)b[128 + 32 * (sub / 4) + i] >> (2 * (sub % 4))) & 3u) << 4;
#elif defined(TYPE_IQ4_XS)
    return ((u32)b[8 + 16 * sub + i % 16] >> (i / 16 * 4)) & 15u;
#elif defined(TYPE_TQ2_0)
    return ((u32)b[32 * (sub / 4) + i] >> (2 * (sub % 4))) & 3u;
#endif
}

FN void put16(GLOBAL u8 *plane, int at, u32 bits) { ((GLOBAL u16 *)plane)[at] = (u16)bits; }

// What 16 or 32 values share, `at` in the order of places; `there`: whether the row has such values, else it is zero.
FN void put_scales(GLOBAL const u8 *b, int sub, int there, GLOBAL u8 *to, int steps, int at) {
#if defined(TYPE_Q4_0) || defined(TYPE_Q5_0) || defined(TYPE_Q8_0) || defined(TYPE_IQ4_NL)
    put16(to + SCALES_0(steps), at, there ? word16(b, 0) : 0u);
#elif defined(TYPE_Q4_1) || defined(TYPE_Q5_1)
    put16(to + SCALES_0(steps), at, there ? word16(b, 0) : 0u);
    put16(to + SCALES_1(steps), at, there ? word16(b, 1) : 0u);
#elif defined(TYPE_MXFP4)
    to[SCALES_0(steps) + at] = there ? b[0] : 0;
#elif defined(TYPE_Q4_K) || defined(TYPE_Q5_K)
    u32 scale = 0, minimum = 0;
    if (there) {
        GLOBAL const u8 *s = b + 4;
        scale = sub < 4 ? s[sub] & 63u : (s[sub + 4] & 15u) | ((u32)s[sub - 4] >> 6) << 4;
        minimum = sub < 4 ? s[sub + 4] & 63u : ((u32)s[sub + 4] >> 4) | ((u32)s[sub] >> 6) << 4;
    }
    to[SCALES_2(steps) + at] = (u8)scale;
    to[SCALES_3(steps) + at] = (u8)minimum;
#elif defined(TYPE_IQ4_XS)
    int scale = there ? (int)((u32)nibble(b + 4, sub) | ((word16(b, 1) >> (2 * sub)) & 3u) << 4) - 32 : 0;
    to[SCALES_1(steps) + at] = (u8)(scale & 255);
#elif defined(TYPE_Q2_K)
    to[SCALES_2(steps) + at] = there ? b[sub] : 0;
#elif defined(TYPE_Q6_K)
    to[SCALES_1(steps) + at] = there ? b[192 + sub] : 0;
#elif defined(TYPE_Q3_K)
    int scale = 0;
    if (there) {
        int low = sub < 8 ? b[96 + sub] & 15 : b[96 + sub - 8] >> 4;
        scale = (low | ((b[104 + sub % 4] >> (2 * (sub / 4))) & 3) << 4) - 32;
    }
    to[SCALES_1(steps) + at] = (u8)(scale & 255);
#endif
}

// What a row's superblock has once.
FN void put_scale_of_all(GLOBAL const u8 *b, int there, GLOBAL u8 *to, int steps, int at) {
#if defined(TYPE_Q4_K) || defined(TYPE_Q5_K)
    put16(to + SCALES_0(steps), at, there ? word16(b, 0) : 0u);
    put16(to + SCALES_1(steps), at, there ? word16(b, 1) : 0u);
#elif defined(TYPE_Q2_K)
    put16(to + SCALES_0(steps), at, there ? word16(b, 40) : 0u);
    put16(to + SCALES_1(steps), at, there ? word16(b, 41) : 0u);
#elif defined(TYPE_Q3_K) || defined(TYPE_Q6_K) || defined(TYPE_IQ4_XS) || defined(TYPE_TQ2_0)
#if defined(TYPE_IQ4_XS)
    const int where = 0;
#else
    const int where = BYTES / 2 - 1;
#endif
    put16(to + SCALES_0(steps), at, there ? word16(b, where) : 0u);
#elif defined(TYPE_Q8_K)
    ((GLOBAL u32 *)(to + SCALES_0(steps)))[at] = there ? word32(b, 0) : 0u;
#endif
}

// The words of a place in a step of a plane.
FN void put_words(GLOBAL u8 *plane, const int bits, int step, int place, const u32 *words) {
    GLOBAL u32 *to = (GLOBAL u32 *)(plane + PANEL * STEP / 8 * bits * step);
    const int piece = bits < 4 ? bits : 4;
    for (int i = 0; i < bits; ++i) to[i / piece * PLACES * piece + place * piece + i % piece] = words[i];
}

// `n_row` rows, the first of them the first of a panel; an item for each place of each step.
KERNEL void repack(BUF(const u8, raw), BUF(u8, to), const int n_row, const int n_in) {
    USE(const u8, raw);
    USE(u8, to);
    int n_step = steps_of(n_in), place = (int)(INDEX % PLACES), step = (int)(INDEX / PLACES % n_step);
    i64 panel = INDEX / PLACES / n_step;
    if (panel >= (n_row + PANEL - 1) / PANEL) return;
    int g = place / 4, t = place % 4, last = n_step - step / 4 * 4, steps = last < 4 ? last : 4;
    to += panel * panel_size(n_in) + (i64)(step / 4) * (4 * STEP_BYTES + SUPERBLOCK_BYTES);
    u32 low[LOW];
    for (int i = 0; i < LOW; ++i) low[i] = 0;
#if HIGH
    u32 high[HIGH];
    for (int i = 0; i < HIGH; ++i) high[i] = 0;
#endif
    for (int part = 0; part < 4; ++part) {
        i64 row = PANEL * panel + g + 8 * (part % 2);
        int chunk = 2 * step + part / 2, there = row < n_row && 32 * chunk < n_in, sub = chunk % (BLOCK / 32);
        GLOBAL const u8 *b = raw;
        if (there) b += row * ((i64)n_in * BYTES / BLOCK) + (i64)(chunk / (BLOCK / 32)) * BYTES;
        for (int j = 0; j < 8; ++j) {
            u32 found = there && 32 * chunk + 8 * t + j < n_in ? code(b, sub, 8 * t + j) : 0u;
            int e = 8 * part + j, i = e % (32 / LOW);
            low[e / (32 / LOW)] |= (found & ((1u << LOW) - 1u)) << (i % 2 * 16 + i / 2 * LOW);
#if HIGH
            i = e % (32 / HIGH);
            high[e / (32 / HIGH)] |= (found >> LOW) << (i % 2 * 16 + i / 2 * HIGH);
#endif
        }
        if (part != t) continue;
#if SPAN == 32
        put_scales(b, sub, there, to, steps, 4 * (8 * (step % 4) + g) + part);
#elif SPAN == 16
        for (int half_ = 0; half_ < 2; ++half_)
            put_scales(b, 2 * sub + half_, there, to, steps, 4 * (2 * (8 * (step % 4) + g) + half_) + part);
#endif
        if (step % 4 == 0 && part < 2) put_scale_of_all(b, there, to, steps, 2 * g + part);
    }
    put_words(to, LOW, step % 4, place, low);
#if HIGH
    put_words(to + PANEL * STEP / 8 * LOW * steps, HIGH, step % 4, place, high);
#endif
}
