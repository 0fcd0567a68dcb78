// What the processor can do at best, for comparison: loops of nothing but loads, or of nothing but products.
#include "cpu/unit-inl.h"

namespace lk::cpu {
namespace {

// Sums that grow side by side, so that none waits for its own last product.
constexpr int kChains = kBytes == 64 ? 16 : kBytes == 32 || LK_SIGNED_PRODUCTS ? 4 : 2;

// The compiler may not know what x holds.
template <class T>
LK_INLINE void hide(T& x) {
#if defined(__x86_64__)
    LK_PARTS asm volatile("" : "+x"(x.p[i]));
#elif defined(__aarch64__)
    LK_PARTS asm volatile("" : "+w"(x.p[i]));
#else
    asm volatile("" : "+m"(x));
#endif
}

// Reads every byte, n a multiple of 256; returns something that depends on them.
int64_t read_all(const uint8_t* x, int64_t n) {
    IntPart sums[4] = {};
    for (int64_t i = 0; i < n; i += 4 * kBytes)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            IntPart part;
            __builtin_memcpy(&part, x + i + j * kBytes, kBytes);
            sums[j] |= part;
        }
    return ((sums[0] | sums[1]) | (sums[2] | sums[3]))[0];
}

template <class Sum, class Add>
LK_INLINE void in_chains(int64_t n, Sum zero, Add add) {
    Sum sums[kChains];
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) sums[j] = zero;
    for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kChains; ++j) sums[j] = add(sums[j]);
#pragma GCC unroll 16
        for (int j = 0; j < kChains; ++j) hide(sums[j]);
    }
}

// n rounds of products; returns how many multiplications that were.
int64_t multiply(ActForm form, int64_t n) {
    if (form == ActForm::int8_32 || form == ActForm::int8_256) {
        Ints u = splat_int(0x03020100), a = splat_int(0x01ff0203);
        hide(a);
        in_chains(n, splat_int(0), [&](Ints s) LK_LAMBDA {
            hide(u);  // or the products would be made once for all
#if LK_SQUARES
            LK_PARTS s.p[i] = (IntPart)vmmlaq_s32((int32x4_t)s.p[i], (int8x16_t)u.p[i], (int8x16_t)a.p[i]);
            return s;
#else
            return dot_nibbles(s, u, a);
#endif
        });
        return n * kChains * kLanes * (LK_SQUARES ? 8 : 4);
    }
    if (form == ActForm::bf16) {
        Ints a = splat_int(0x3f803f80), b = a;
        hide(a), hide(b);
        in_chains(n, splat(0.0f), [&](Floats s) LK_LAMBDA { return dot_bf16(s, a, b); });
        return n * kChains * kLanes * 2;
    }
    Floats a = splat(0.5f), b = splat(0.25f);
    hide(a), hide(b);
    in_chains(n, splat(0.0f), [&](Floats s) LK_LAMBDA { return fma(a, b, s); });
    return n * kChains * kLanes;
}

}  // namespace

void LK_FILL(ceilings)(KernelTable& table);
void LK_FILL(ceilings)(KernelTable& table) {
    table.read_all = read_all;
    table.multiply = multiply;
}

}  // namespace lk::cpu
