// Powers of two for softmax. Included by units of kernels, inside their anonymous namespace.

// 2^x for x <= 0, exactly 0 from -127 on (masked scores): 2^n times a polynomial on [-1/2, 1/2], fitted to the smallest
// largest relative error: 2e-9 with six terms, 3e-6 with four, which is far below the rounding of bfloat16.
template <bool kShort>
LK_INLINE Floats exp2_below(Floats x) {
    x = max(x, splat(-127.0f));
    const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, left in the low bits
    const Floats shifted = x + magic, f = x - (shifted - magic);
    Floats y;
    if (kShort) {
        y = fma(splat(0.009582852945f), f, splat(0.055906426162f));
        y = fma(y, f, splat(0.240240991116f));
        y = fma(y, f, splat(0.693124175072f));
    } else {
        y = fma(splat(0.000153533620f), f, splat(0.001339887385f));
        y = fma(y, f, splat(0.009618436918f));
        y = fma(y, f, splat(0.055503323674f));
        y = fma(y, f, splat(0.240226477385f));
        y = fma(y, f, splat(0.693147182465f));
    }
    y = fma(y, f, splat(1.0f));
    LK_PARTS y.p[i] = (FloatPart)((IntPart)y.p[i] + ((IntPart)shifted.p[i] << 23));
    return y;
}
