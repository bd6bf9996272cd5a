#pragma once

namespace gptwo {

// Prints a hash of what the sampler chooses from random rows under random options, for each size of a row.
void check_sampler();

}  // namespace gptwo
