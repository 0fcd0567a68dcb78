// The kernels for this processor.
#pragma once

#include <string>
#include <vector>

#include "cpu/types.h"

namespace lk::cpu {

// Names of the instruction sets that were compiled and that this processor has, the best first.
std::vector<std::string> supported_isas();
// The kernels of one of them, or of the best for ""; throws std::invalid_argument.
const KernelTable& kernels(const std::string& isa);

}  // namespace lk::cpu
