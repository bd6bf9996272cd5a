#include "tiers.hpp"

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace gptwo {

#if defined(__x86_64__)
namespace {
bool has_f16c() {  // which clang's __builtin_cpu_supports does not know
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
}  // namespace
#endif

std::vector<const Kernels*> available_tiers() {
    std::vector<const Kernels*> tiers{&kPortable};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())
        tiers.push_back(&kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        tiers.push_back(&kAvx512);
        if (__builtin_cpu_supports("avx512vnni")) tiers.push_back(&kAvx512Vnni);
    }
#endif
    return tiers;
}

const Kernels& choose_tier(const std::string& name) {
    const std::vector<const Kernels*> tiers = available_tiers();
    if (name.empty()) return *tiers.back();
    std::string known;
    for (const Kernels* tier : tiers) {
        if (name == tier->name) return *tier;
        known += (known.empty() ? "" : ", ") + std::string(tier->name);
    }
    throw std::invalid_argument("instruction set '" + name + "' is not one that this machine has: " + known);
}

}  // namespace gptwo
