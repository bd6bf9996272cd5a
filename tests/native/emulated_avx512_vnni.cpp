// csrc/lanes_avx512.hpp with VNNI, over emulated/immintrin.h.
#define __AVX512VNNI__ 1
#include "kernels.hpp"

namespace gptwo {
extern const Kernels kAvx512VnniEmulated;
}

#include "lanes_avx512.hpp"
//
#include "kernels.inl"

GPTWO_KERNELS(kAvx512VnniEmulated, "avx512vnni-emulated");
