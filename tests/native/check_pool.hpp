#pragma once

#include "pool.hpp"

namespace gptwo {

void check_pool(int threads);
void check_two_pools();
void print_loop_cost();  // of an empty loop while the workers are awake, and of one with some work

}  // namespace gptwo
