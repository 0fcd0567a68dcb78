// Kernels on single rows of float32.
#include "cpu/unit-inl.h"

namespace lk::cpu {
namespace {
#include "cpu/rows-inl.h"
}  // namespace

void LK_FILL(rows)(KernelTable& table);
void LK_FILL(rows)(KernelTable& table) {
    table.rms_norm = rms_norm;
    table.layer_norm = layer_norm;
    table.activate = activate;
    table.rope = rope;
    table.add = add;
    table.mul = mul;
    table.scale = scale;
    table.axpy = axpy;
    table.dot = dot;
    table.gated = gated;
    table.maximum = maximum_of;
    table.exp_sum = exp_sum;
    table.exp_scale = exp_scale;
}

}  // namespace lk::cpu
