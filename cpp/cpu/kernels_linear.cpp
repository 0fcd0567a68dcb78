// Linear layers, and what they need: activations in other forms, single rows of weights.
#include "cpu/unit-inl.h"
#include "formats/packing.h"

namespace lk::cpu {
namespace {
#include "cpu/layout-inl.h"
#include "cpu/rows-inl.h"
#include "cpu/emit-inl.h"
#include "cpu/activations-inl.h"
#include "cpu/linear_int-inl.h"
#include "cpu/linear_float-inl.h"

void linear(const LinearTask& t, int64_t from, int64_t to, int64_t begin, int64_t end) {
    if (t.weight.kind == WeightKind::quantised)
        linear_int(t, from, to, begin, end);
    else
        linear_float(t, int(t.weight.kind) + (t.weight.kind == WeightKind::bf16 && !kPairsOfBF16), from, to, begin,
                     end);
}
}  // namespace

void LK_FILL(linear)(KernelTable& table);
void LK_FILL(linear)(KernelTable& table) {
    table.float_tile = kFloatTile;
    table.int_tile = kIntTile;
    table.bf16_bytes = kPairsOfBF16 ? 2 : 4;
    table.prepare = prepare;
    table.start_sums = start_sums;
    table.linear = linear;
    table.linear_rows = linear_rows;
    table.weight_row = weight_row;
}

}  // namespace lk::cpu
