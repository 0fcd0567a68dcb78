#include "cpu/dispatch.h"

#include <stdexcept>

namespace lk::cpu {

const KernelTable* kernels_generic();
#if defined(__x86_64__)
const KernelTable* kernels_avx2();
const KernelTable* kernels_avx512();
#endif

namespace {

std::vector<const KernelTable*> usable() {
    std::vector<const KernelTable*> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
    if (avx2 && avx512) found.push_back(kernels_avx512());
    if (avx2) found.push_back(kernels_avx2());
#endif
    found.push_back(kernels_generic());
    return found;
}

}  // namespace

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const KernelTable* table : usable()) names.emplace_back(table->name);
    return names;
}

const KernelTable& kernels(const std::string& isa) {
    std::string names;
    for (const KernelTable* table : usable()) {
        if (isa.empty() || isa == table->name) return *table;
        names += std::string(" ") + table->name;
    }
    throw std::invalid_argument("no kernels for " + isa + "; this processor has:" + names);
}

}  // namespace lk::cpu
