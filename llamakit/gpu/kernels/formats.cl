// decode(): 32 values of a tensor's row to float32, for the type named by -D TYPE_name; BLOCK and BYTES are those of its
// blocks. `b`: the block, `sub`: which 32 of its values. Of types without blocks 32 neighbouring values are taken for
// one, of which `n` are there. GRID and NAMED, the values of codes, come before this file. Layouts and arithmetic:
// llamakit/gguf/quants.py and quants_grid.py.
FN void zeros(float *v) {
    for (int i = 0; i < 32; ++i) v[i] = 0.0f;
}

#if defined(TYPE_F32)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    GLOBAL const float *x = (GLOBAL const float *)b;
    if (n >= 32) {
        for (int i = 0; i < 32; ++i) v[i] = x[i];
        return;
    }
    zeros(v);
    for (int i = 0; i < n; ++i) v[i] = x[i];
}
#elif defined(TYPE_F16)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    zeros(v);
    for (int i = 0; i < 32; ++i)
        if (i < n) v[i] = HALF_AT(b + 2 * i);
}
#elif defined(TYPE_BF16)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    zeros(v);
    for (int i = 0; i < 32; ++i)
        if (i < n) v[i] = bfloat_value(word16(b, i));
}
#elif defined(TYPE_Q4_0)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    float d = HALF_AT(b);
    for (int i = 0; i < 16; ++i) {
        v[i] = d * (float)((b[2 + i] & 15) - 8);
        v[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}
#elif defined(TYPE_Q4_1)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    float d = HALF_AT(b), m = HALF_AT(b + 2);
    for (int i = 0; i < 16; ++i) {
        v[i] = d * (float)(b[4 + i] & 15) + m;
        v[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}
#elif defined(TYPE_Q5_0)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    float d = HALF_AT(b);
    u32 high = word32(b + 2, 0);
    for (int i = 0; i < 16; ++i) {
        v[i] = d * (float)((int)((b[6 + i] & 15) | ((high >> i) & 1) << 4) - 16);
        v[i + 16] = d * (float)((int)((b[6 + i] >> 4) | ((high >> (i + 16)) & 1) << 4) - 16);
    }
}
#elif defined(TYPE_Q5_1)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    float d = HALF_AT(b), m = HALF_AT(b + 2);
    u32 high = word32(b + 4, 0);
    for (int i = 0; i < 16; ++i) {
        v[i] = d * (float)((b[8 + i] & 15) | ((high >> i) & 1) << 4) + m;
        v[i + 16] = d * (float)((b[8 + i] >> 4) | ((high >> (i + 16)) & 1) << 4) + m;
    }
}
#elif defined(TYPE_Q8_0)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    float d = HALF_AT(b);
    for (int i = 0; i < 32; ++i) v[i] = d * (float)((GLOBAL const signed char *)b)[2 + i];
}
#elif defined(TYPE_Q2_K)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    float d = HALF_AT(b + 80), dmin = HALF_AT(b + 82);
    for (int half_ = 0; half_ < 2; ++half_) {
        int s = b[2 * sub + half_];
        float scale = d * (float)(s & 15), minimum = dmin * (float)(s >> 4);
        for (int i = 16 * half_; i < 16 * half_ + 16; ++i) {
            int q = (b[16 + 32 * (sub / 4) + i] >> (2 * (sub % 4))) & 3;
            v[i] = scale * (float)q - minimum;
        }
    }
}
#elif defined(TYPE_Q3_K)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    float d = HALF_AT(b + 108);
    for (int half_ = 0; half_ < 2; ++half_) {
        int j = 2 * sub + half_;
        int low = j < 8 ? b[96 + j] & 15 : b[96 + j - 8] >> 4;
        int high = (b[96 + 8 + j % 4] >> (2 * (j / 4))) & 3;
        float scale = d * (float)((low | high << 4) - 32);
        for (int i = 16 * half_; i < 16 * half_ + 16; ++i) {
            int q = (b[32 + 32 * (sub / 4) + i] >> (2 * (sub % 4))) & 3;
            v[i] = scale * (float)(q - (((b[i] >> sub) & 1) ? 0 : 4));
        }
    }
}
#elif defined(TYPE_Q4_K) || defined(TYPE_Q5_K)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    GLOBAL const u8 *s = b + 4;
    int scale6 = sub < 4 ? s[sub] & 63 : (s[sub + 4] & 15) | (s[sub - 4] >> 6) << 4;
    int minimum6 = sub < 4 ? s[sub + 4] & 63 : (s[sub + 4] >> 4) | (s[sub] >> 6) << 4;
    float scale = HALF_AT(b) * (float)scale6, minimum = HALF_AT(b + 2) * (float)minimum6;
    GLOBAL const u8 *q = b + BYTES - 128 + 32 * (sub / 2);
    for (int i = 0; i < 32; ++i) {
        int code = (q[i] >> (4 * (sub % 2))) & 15;
#ifdef TYPE_Q5_K
        code |= ((b[16 + i] >> sub) & 1) << 4;
#endif
        v[i] = scale * (float)code - minimum;
    }
}
#elif defined(TYPE_Q6_K)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    float d = HALF_AT(b + 208);
    int part = sub / 4, group = sub % 4;
    GLOBAL const u8 *low = b + 64 * part + 32 * (group % 2), *high = b + 128 + 32 * part;
    for (int half_ = 0; half_ < 2; ++half_) {
        float scale = d * (float)((GLOBAL const signed char *)b)[192 + 2 * sub + half_];
        for (int i = 16 * half_; i < 16 * half_ + 16; ++i) {
            int q = ((low[i] >> (4 * (group / 2))) & 15) | ((high[i] >> (2 * group)) & 3) << 4;
            v[i] = scale * (float)(q - 32);
        }
    }
}
#elif defined(TYPE_Q8_K)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    float d = *(GLOBAL const float *)b;
    for (int i = 0; i < 32; ++i) v[i] = d * (float)((GLOBAL const signed char *)b)[4 + 32 * sub + i];
}
#elif defined(TYPE_IQ4_NL) || defined(TYPE_IQ4_XS) || defined(TYPE_MXFP4)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
#if defined(TYPE_MXFP4)
    float d = power_of_two(b[0]);
    GLOBAL const u8 *q = b + 1;
#elif defined(TYPE_IQ4_NL)
    float d = HALF_AT(b);
    GLOBAL const u8 *q = b + 2;
#else
    int scale = (int)(nibble(b + 4, sub) | ((word16(b + 2, 0) >> (2 * sub)) & 3) << 4) - 32;
    float d = HALF_AT(b) * (float)scale;
    GLOBAL const u8 *q = b + 8 + 16 * sub;
#endif
    for (int i = 0; i < 16; ++i) {
        v[i] = d * (float)NAMED[q[i] & 15];
        v[i + 16] = d * (float)NAMED[q[i] >> 4];
    }
}
#elif defined(TYPE_TQ1_0)
FN float ternary(u32 byte, u32 power) { return (float)((int)((((byte * power) & 255u) * 3u) >> 8) - 1); }

// 32 bytes of five digits, 16 of five, 4 of four; of each the first digits come first.
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    float d = HALF_AT(b + 52);
    for (int i = 0; i < 32; ++i) {
        int first = sub < 5 ? 0 : sub == 7 && i >= 16 ? 240 : 160, k = 32 * sub + i - first;
        int shift = sub < 5 ? 5 : first == 160 ? 4 : 2, digit = k >> shift;
        u32 power = (digit & 1 ? 3u : 1u) * (digit & 2 ? 9u : 1u) * (digit & 4 ? 81u : 1u);
        v[i] = d * ternary(b[(sub < 5 ? 0 : first == 160 ? 32 : 48) + (k & ((1 << shift) - 1))], power);
    }
}
#elif defined(TYPE_TQ2_0)
FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
    float d = HALF_AT(b + 64);
    for (int i = 0; i < 32; ++i) v[i] = d * (float)(((b[32 * (sub / 4) + i] >> (2 * (sub % 4))) & 3) - 1);
}
#else  // the grids, of points of eight or four values each: GRID comes before this file

FN u32 eight_signs(u32 seven) {  // an eighth that makes the number of minuses even
    u32 odd = seven ^ seven >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    return seven | (odd & 1u) << 7;
}

FN float signed_point(int code, int i, u32 signs) {
    float x = (float)GRID[code * WIDTH + i];
    return (signs >> i) & 1u ? -x : x;
}

FN void decode(GLOBAL const u8 *b, int sub, int n, float *v) {
#if defined(TYPE_IQ1_M)
    u32 bits = 0;
    for (int j = 0; j < 4; ++j) bits |= (word16(b + 48, j) >> 12) << (4 * j);
    u32 sign = (bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u, mantissa = bits & 1023u;
    float d = exponent ? BITS_FLOAT(sign | (exponent + 112u) << 23 | mantissa << 13)
                       : BITS_FLOAT(sign | FLOAT_BITS((float)mantissa * 5.9604644775390625e-8f));
    d *= 0.125f;
    for (int i = 0; i < 4; ++i) {
        int at = 4 * sub + i, extra = nibble(b + 32, at), half_ = 2 * sub + i / 2;
        float scale = d * (float)(2 * ((word16(b + 48, half_ / 4) >> (3 * (half_ % 4))) & 7) + 1);
        int code = b[at] | (extra & 7) << 8;
        for (int j = 0; j < 8; ++j) v[8 * i + j] = scale * ((float)GRID[8 * code + j] + (extra & 8 ? -1.0f : 1.0f));
    }
#elif defined(TYPE_IQ1_S)
    u32 extra = word16(b + 34, sub);
    float scale = HALF_AT(b) * 0.125f * (float)(2 * ((extra >> 12) & 7) + 1), shift = extra >> 15 ? -1.0f : 1.0f;
    for (int i = 0; i < 4; ++i) {
        int code = b[2 + 4 * sub + i] | ((extra >> (3 * i)) & 7) << 8;
        for (int j = 0; j < 8; ++j) v[8 * i + j] = scale * ((float)GRID[8 * code + j] + shift);
    }
#elif defined(TYPE_IQ2_XXS)
    u32 extra = word32(b + 2, 2 * sub + 1);
    float scale = HALF_AT(b) * 0.125f * (float)(2 * (extra >> 28) + 1);
    for (int i = 0; i < 4; ++i) {
        u32 signs = eight_signs((extra >> (7 * i)) & 127);
        for (int j = 0; j < 8; ++j) v[8 * i + j] = scale * signed_point(b[2 + 8 * sub + i], j, signs);
    }
#elif defined(TYPE_IQ2_XS)
    for (int i = 0; i < 4; ++i) {
        float scale = HALF_AT(b) * 0.125f * (float)(2 * nibble(b + 66, 2 * sub + i / 2) + 1);
        u32 code = word16(b + 2, 4 * sub + i), signs = eight_signs(code >> 9);
        for (int j = 0; j < 8; ++j) v[8 * i + j] = scale * signed_point(code & 511, j, signs);
    }
#elif defined(TYPE_IQ2_S)
    for (int i = 0; i < 4; ++i) {
        float scale = HALF_AT(b) * 0.125f * (float)(2 * nibble(b + 74, 2 * sub + i / 2) + 1);
        int code = b[2 + 4 * sub + i] | ((b[66 + sub] >> (2 * i)) & 3) << 8;
        for (int j = 0; j < 8; ++j) v[8 * i + j] = scale * signed_point(code, j, b[34 + 4 * sub + i]);
    }
#elif defined(TYPE_IQ3_XXS)
    u32 extra = word32(b + 66, sub);
    float scale = HALF_AT(b) * 0.25f * (float)(2 * (extra >> 28) + 1);
    for (int i = 0; i < 8; ++i) {
        u32 signs = eight_signs((extra >> (i / 2 * 7)) & 127) >> (i % 2 * 4);
        for (int j = 0; j < 4; ++j) v[4 * i + j] = scale * signed_point(b[2 + 8 * sub + i], j, signs);
    }
#elif defined(TYPE_IQ3_S)
    float scale = HALF_AT(b) * (float)(2 * nibble(b + 106, sub) + 1);
    for (int i = 0; i < 8; ++i) {
        int code = b[2 + 8 * sub + i] | ((b[66 + sub] >> i) & 1) << 8;
        u32 signs = (u32)b[74 + 4 * sub + i / 2] >> (i % 2 * 4);
        for (int j = 0; j < 4; ++j) v[4 * i + j] = scale * signed_point(code, j, signs);
    }
#endif
}
#endif
