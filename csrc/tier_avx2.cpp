// Compiled with -mavx2 -mfma -mf16c.
#include "lanes_avx2.hpp"
//
#include "kernels.inl"

GPTWO_KERNELS(kAvx2, "avx2");
