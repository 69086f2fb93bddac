#pragma once
// What a layer may apply to its sums before it stores them.

namespace marey {

// gelu: x / 2 (1 + erf(x / sqrt(2))); silu: x / (1 + exp(-x)).
enum class Activation : int { none, relu, gelu, silu };

}  // namespace marey
