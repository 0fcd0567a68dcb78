// Linear layers with float weights, and rows of any weight.
#include "cpu/unit-inl.h"

namespace lk::cpu {
namespace {
#include "cpu/linear_float-inl.h"
}  // namespace

void LK_FILL(linear_float)(KernelTable& table) {
    table.float_tile = kFloatTile;
    table.linear_float = linear_float;
    table.weight_row = weight_row;
}

}  // namespace lk::cpu
