// AVX-VNNI's one instruction that the kernels use, made of AVX2's, so that they can be checked on a processor without
// it: compile with -march=x86-64-v3 -include this file.
#pragma once
#include <immintrin.h>

#define __AVXVNNI__ 1

static inline __attribute__((always_inline)) __m256i emulated_dpbusd(__m256i s, __m256i u, __m256i a) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sums[2];
    for (int half = 0; half < 2; ++half) {  // even bytes, then odd ones: products of 16 bits are exact
        const __m256i bytes_u = half ? _mm256_srli_epi16(u, 8) : _mm256_and_si256(u, _mm256_set1_epi16(255));
        const __m256i bytes_a = _mm256_srai_epi16(half ? a : _mm256_slli_epi16(a, 8), 8);
        sums[half] = _mm256_madd_epi16(_mm256_mullo_epi16(bytes_u, bytes_a), ones);
    }
    return _mm256_add_epi32(s, _mm256_add_epi32(sums[0], sums[1]));
}

#define _mm256_dpbusd_avx_epi32 emulated_dpbusd
