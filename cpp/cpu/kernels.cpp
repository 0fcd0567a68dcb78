// The table of all kernels of one instruction set.
#include "cpu/unit-inl.h"

namespace lk::cpu {

const KernelTable* LK_JOIN(kernels_, LK_ISA)() {
    static const KernelTable table = [] {
        KernelTable made{};
        made.name = LK_TEXT(LK_ISA);
        LK_FILL(rows)(made);
        LK_FILL(linear)(made);
        LK_FILL(pack)(made);
        LK_FILL(attention)(made);
        LK_FILL(ceilings)(made);
        return made;
    }();
    return &table;
}

}  // namespace lk::cpu
