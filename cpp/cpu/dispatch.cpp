#include "cpu/dispatch.h"

#include <algorithm>
#include <stdexcept>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace lk::cpu {

// The build says in LK_ISAS what there is, the best first.
#define LK_ISA(name) const KernelTable* kernels_##name();
LK_ISAS
#undef LK_ISA

namespace {

[[maybe_unused]] bool has_generic() {
    return true;
}

#if defined(__x86_64__)
[[maybe_unused]] bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

// Not every compiler knows the name: leaf 7, subleaf 1, bit 4 of EAX.
[[maybe_unused]] bool has_avxvnni() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}

[[maybe_unused]] bool has_avx512vnni() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512vnni");
}

[[maybe_unused]] bool has_avx512() {
    return has_avx512vnni() && __builtin_cpu_supports("avx512bf16");
}
#elif defined(__aarch64__)
#if defined(__APPLE__)
bool has(const char* feature) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(feature, &value, &size, nullptr, 0) == 0 && value != 0;
}
#endif

[[maybe_unused]] bool has_dotprod() {
#if defined(__APPLE__)
    return has("hw.optional.arm.FEAT_DotProd");
#elif defined(__linux__)
    return (getauxval(AT_HWCAP) >> 20 & 1) != 0;  // asimddp
#else
    return false;
#endif
}

[[maybe_unused]] bool has_i8mm() {
#if defined(__APPLE__)
    return has_dotprod() && has("hw.optional.arm.FEAT_I8MM");
#elif defined(__linux__)
    return has_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 1) != 0;
#else
    return false;
#endif
}
#endif

}  // namespace

const std::vector<Compiled>& compiled() {
#define LK_ISA(name) {#name, kernels_##name, has_##name},
    static const std::vector<Compiled> all = {LK_ISAS};
#undef LK_ISA
    return all;
}

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const Compiled& each : compiled())
        if (each.present()) names.emplace_back(each.name);
    return names;
}

const KernelTable& kernels(const std::string& isa) {
    static const KernelTable& best = *std::find_if(compiled().begin(), compiled().end(), [](const Compiled& each) {
                                          return each.present();
                                      })->table();
    if (isa.empty()) return best;  // without asking the processor again, which is slow
    std::string names;
    for (const Compiled& each : compiled()) {
        if (!each.present()) continue;
        if (isa == each.name) return *each.table();
        names += std::string(" ") + each.name;
    }
    throw std::invalid_argument("no kernels for " + isa + "; this processor has:" + names);
}

}  // namespace lk::cpu
