// The table of all kernels of one instruction set; units in which it does not differ are those of another.
#include "cpu/unit-inl.h"
#include "cpu/training_types.h"

#define LK_TEXT2(a) #a
#define LK_TEXT(a) LK_TEXT2(a)
#define LK_FILL_FROM(unit) LK_JOIN(fill_##unit##_, LK_ISA_##unit)

namespace lk::cpu {

void LK_FILL_FROM(rows)(KernelTable& table);
void LK_FILL_FROM(linear)(KernelTable& table);
void LK_FILL_FROM(pack)(KernelTable& table);
void LK_FILL_FROM(attention)(KernelTable& table);
void LK_FILL_FROM(ceilings)(KernelTable& table);
void LK_FILL_FROM(gemm)(TrainingKernels& table);
void LK_FILL_FROM(attention_rows)(TrainingKernels& table);
void LK_FILL_FROM(gradients)(TrainingKernels& table);

const KernelTable* LK_JOIN(kernels_, LK_ISA)() {
    static const TrainingKernels training = [] {
        TrainingKernels made{};
        LK_FILL_FROM(gemm)(made);
        LK_FILL_FROM(attention_rows)(made);
        LK_FILL_FROM(gradients)(made);
        return made;
    }();
    static const KernelTable table = [] {
        KernelTable made{};
        made.name = LK_TEXT(LK_ISA);
        LK_FILL_FROM(rows)(made);
        LK_FILL_FROM(linear)(made);
        LK_FILL_FROM(pack)(made);
        LK_FILL_FROM(attention)(made);
        LK_FILL_FROM(ceilings)(made);
        made.training = &training;
        return made;
    }();
    return &table;
}

}  // namespace lk::cpu
