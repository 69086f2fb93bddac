#pragma once
#include <string>
#include <vector>

namespace marey::cuda {

// Runs the kernel with this fault and returns what its threads wrote.
std::vector<float> run_fault(const std::string& fault);

}  // namespace marey::cuda
