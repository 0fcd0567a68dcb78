// What each unit of kernels starts with. The units are compiled once for each instruction set (LK_ISA names it).
// Everything in them is in an anonymous namespace and nothing of the standard library is used: a weak symbol compiled
// here could be the copy that the linker keeps for the whole program, and then older processors would meet
// instructions that they do not have. A unit hands its kernels over by filling its part of the table.
#pragma once
#include "cpu/types.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define LK_JOIN2(a, b) a##b
#define LK_JOIN(a, b) LK_JOIN2(a, b)
#define LK_LAMBDA __attribute__((always_inline))
#define LK_FILL(unit) LK_JOIN(fill_##unit##_, LK_ISA)

namespace lk::cpu {
namespace {
#include "cpu/simd-inl.h"

#include "cpu/half-inl.h"

// Rows of the tile that begins where so many are left.
LK_INLINE int tile_at(int64_t rows_left, int largest) {
    return rows_left < largest ? int(rows_left) : largest;
}
}  // namespace
}  // namespace lk::cpu
