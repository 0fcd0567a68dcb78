// Products in general: float32 with either side transposed, and with weights as their values.
#include "cpu/unit-inl.h"
#include "cpu/training_types.h"

namespace lk::cpu {
namespace {
#include "cpu/layout-inl.h"
#include "cpu/rows-inl.h"
#include "cpu/transpose-inl.h"
#include "cpu/unpack-inl.h"
#include "cpu/gemm-inl.h"
#include "cpu/gemm_pack-inl.h"
}  // namespace

void LK_FILL(gemm)(TrainingKernels& table);
void LK_FILL(gemm)(TrainingKernels& table) {
    table.products = {kTileRows, pack_left, pack_right, product};
}

}  // namespace lk::cpu
