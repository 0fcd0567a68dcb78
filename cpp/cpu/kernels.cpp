// All kernels, compiled once for each instruction set (LK_ISA names it). Everything is in an anonymous namespace and
// nothing of the standard library is used: a weak symbol compiled here could be the copy that the linker keeps for
// the whole program, and then older processors would meet instructions that they do not have.
#include "cpu/types.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define LK_JOIN2(a, b) a##b
#define LK_JOIN(a, b) LK_JOIN2(a, b)
#define LK_TEXT2(a) #a
#define LK_TEXT(a) LK_TEXT2(a)
#define LK_LAMBDA __attribute__((always_inline))

namespace lk::cpu {
namespace {
#include "cpu/simd-inl.h"
#include "cpu/half-inl.h"
#include "cpu/linear_int-inl.h"
#include "cpu/linear_float-inl.h"
#include "cpu/rows-inl.h"
#include "cpu/kv-inl.h"
#include "cpu/attention-inl.h"

const KernelTable table = {
    LK_TEXT(LK_ISA), kFloatTile, kIntTile, quantise,  linear_int, linear_float, weight_row,
    rms_norm,        rope,       add,      mul,       scale,      axpy,         dot,
    gated,           maximum_of, exp_sum,  exp_scale, kv_write,   kv_read,      attend,
};
}  // namespace

const KernelTable* LK_JOIN(kernels_, LK_ISA)() {
    return &table;
}

}  // namespace lk::cpu
