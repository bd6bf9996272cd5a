// Which instruction sets this machine has, and which one is used.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace gptwo {

std::vector<const Kernels*> available_tiers();  // slowest first; the portable one is always there

// The tier of this name, else the fastest. Throws std::invalid_argument for one that this machine lacks.
const Kernels& choose_tier(const std::string& name);

}  // namespace gptwo
