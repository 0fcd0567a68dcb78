// Attention of rows among themselves, and its gradients.
#include "cpu/unit-inl.h"
#include "cpu/training_types.h"

namespace lk::cpu {
namespace {
#include "cpu/rows-inl.h"
#include "cpu/gemm-inl.h"
#include "cpu/exp2-inl.h"
#include "cpu/attention_rows-inl.h"
}  // namespace

void LK_FILL(attention_rows)(TrainingKernels& table);
void LK_FILL(attention_rows)(TrainingKernels& table) {
    table.rows = {rows_pack, rows_attend, rows_attend_back, rows_scratch, rows_back_scratch};
}

}  // namespace lk::cpu
