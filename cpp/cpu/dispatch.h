// The kernels for this processor.
#pragma once

#include <string>
#include <vector>

#include "cpu/types.h"

namespace lk::cpu {

// Kernels of one instruction set that were compiled, and whether this processor has it.
struct Compiled {
    const char* name;
    const KernelTable* (*table)();
    bool (*present)();
};

// All, the best first.
const std::vector<Compiled>& compiled();
// Names of those that this processor has, the best first.
std::vector<std::string> supported_isas();
// The kernels of one of them, or of the best for ""; throws std::invalid_argument.
const KernelTable& kernels(const std::string& isa);

}  // namespace lk::cpu
