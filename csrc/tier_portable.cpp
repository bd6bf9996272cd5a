// Plain C++: what every other tier is tested against. On Arm the compiler makes NEON of it.
#include "lanes_portable.hpp"
//
#include "kernels.inl"

GPTWO_KERNELS(kPortable, "portable");
