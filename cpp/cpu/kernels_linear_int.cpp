// Linear layers with quantised weights.
#include "cpu/unit-inl.h"

namespace lk::cpu {
namespace {
#include "cpu/linear_int-inl.h"
}  // namespace

void LK_FILL(linear_int)(KernelTable& table) {
    table.int_tile = kIntTile;
    table.quantise = quantise;
    table.linear_int = linear_int;
}

}  // namespace lk::cpu
