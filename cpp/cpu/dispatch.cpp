#include "cpu/dispatch.h"

#include <stdexcept>

namespace lk::cpu {

const KernelTable* kernels_generic();
#ifdef LK_HAVE_AVX2
const KernelTable* kernels_avx2();
#endif
#ifdef LK_HAVE_AVX512
const KernelTable* kernels_avx512();
#endif
#ifdef LK_HAVE_NEON
const KernelTable* kernels_neon();
#endif

std::vector<const KernelTable*> supported() {
    std::vector<const KernelTable*> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
#ifdef LK_HAVE_AVX512
    if (__builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512bf16"))
        found.push_back(kernels_avx512());
#endif
#ifdef LK_HAVE_AVX2
    if (__builtin_cpu_supports("x86-64-v3")) found.push_back(kernels_avx2());
#endif
#endif
#if defined(LK_HAVE_NEON) && defined(__APPLE__)
    found.push_back(kernels_neon());  // every Apple processor has the dot product instructions
#endif
    found.push_back(kernels_generic());
    return found;
}

const KernelTable* choose(const std::string& isa) {
    std::string names;
    for (const KernelTable* table : supported()) {
        if (isa.empty() || isa == "auto" || isa == table->name) return table;
        names += std::string(names.empty() ? "" : ", ") + table->name;
    }
    throw std::invalid_argument("instruction set '" + isa + "' is not available here; there are: " + names);
}

}  // namespace lk::cpu
