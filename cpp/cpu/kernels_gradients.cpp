// Gradients of operations on rows, sums, and elementwise programs.
#include "cpu/unit-inl.h"
#include "cpu/training_types.h"

namespace lk::cpu {
namespace {
#include "cpu/rows-inl.h"
#include "cpu/gradients-inl.h"
#include "cpu/map-inl.h"
}  // namespace

void LK_FILL(gradients)(TrainingKernels& table);
void LK_FILL(gradients)(TrainingKernels& table) {
    table.norm_factor = norm_factor;
    table.norm_back = norm_back;
    table.layer_norm_back = layer_norm_back;
    table.add_columns = add_columns;
    table.gated_back = gated_back;
    table.slopes = slopes;
    table.reduce = reduce;
    table.map = map;
}

}  // namespace lk::cpu
