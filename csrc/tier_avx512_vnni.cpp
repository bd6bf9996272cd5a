// Compiled with -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni.
#include "lanes_avx512.hpp"
//
#include "kernels.inl"

GPTWO_KERNELS(kAvx512Vnni, "avx512vnni");
