// Linear layers, and what they need: activations in other forms, single rows of weights.
#include "cpu/unit-inl.h"

namespace lk::cpu {
namespace {
#include "cpu/layout-inl.h"
#include "cpu/rows-inl.h"
#include "cpu/emit-inl.h"
#include "cpu/activations-inl.h"
#include "cpu/linear_int-inl.h"
#include "cpu/linear_float-inl.h"

void linear(const LinearTask& t, int64_t from, int64_t to, int64_t begin, int64_t end, uint8_t* scratch) {
    if (t.weight.kind == WeightKind::quantised)
        linear_int(t, from, to, begin, end, scratch);
    else
        linear_float(t, int(t.weight.kind), from, to, begin, end);
}

// Bytes that `linear`, and `linear_rows` for any number of rows, need.
int64_t linear_scratch(int64_t n_in) {
    const int64_t packed = n_in * kFloatTile * 4 + 64, integer = int_scratch(n_in);
    return packed > integer ? packed : integer;
}
}  // namespace

void LK_FILL(linear)(KernelTable& table) {
    table.float_tile = kFloatTile;
    table.int_tile = kIntTile;
    table.prepare = prepare;
    table.linear = linear;
    table.linear_scratch = linear_scratch;
    table.linear_rows = linear_rows;
    table.weight_row = weight_row;
}

}  // namespace lk::cpu
