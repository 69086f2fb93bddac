#pragma once
// The scratch memory of a kernel, for kernel files: parts of it, each of which begins a cache line.
#ifndef MAREY_ISA_NS
#error "for kernel files"
#endif
#include <cstddef>
#include <cstdint>

namespace marey::MAREY_ISA_NS {

class ScratchParts {
 public:
  // `memory` begins a line. Without it parts are null, and bytes() says how much they would need.
  explicit ScratchParts(std::byte* memory) : memory_(memory) {}

  template <class X>
  void take(X*& part, int64_t count) {
    part = memory_ != nullptr ? reinterpret_cast<X*>(memory_ + bytes_) : nullptr;
    bytes_ += (count * static_cast<int64_t>(sizeof(X)) + kLine - 1) / kLine * kLine;
  }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kLine = 64;
  std::byte* memory_;
  int64_t bytes_ = 0;
};

}  // namespace marey::MAREY_ISA_NS
