// Which kernels this processor can run.
#pragma once
#include <string>
#include <vector>

#include "cpu/types.h"

namespace lk::cpu {

// Tables that run here, the fastest first.
std::vector<const KernelTable*> supported();

// The table of that name, or the fastest if it is empty or "auto". Throws std::invalid_argument with what there is.
const KernelTable* choose(const std::string& isa);

}  // namespace lk::cpu
