// Compiled with -mavx512f -mavx512bw -mavx512dq -mavx512vl.
#include "lanes_avx512.hpp"
//
#include "kernels.inl"

GPTWO_KERNELS(kAvx512, "avx512");
