// csrc/lanes_avx512.hpp over emulated/immintrin.h.
#include "kernels.hpp"

namespace gptwo {
extern const Kernels kAvx512Emulated;
}

#include "lanes_avx512.hpp"
//
#include "kernels.inl"

GPTWO_KERNELS(kAvx512Emulated, "avx512-emulated");
