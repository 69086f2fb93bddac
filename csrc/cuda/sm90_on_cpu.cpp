// The tensor cores of Hopper, for on_cpu.h: operands are read by their descriptors, at the time
// when their group is waited for.
#include "cuda/sm90.h"

namespace marey::cuda {
namespace {

constexpr int kDepth = 16;

float item_at(uint32_t address) {
  bfloat16 value{};
  std::memcpy(&value, on_cpu::shared_bytes() + swizzled(address), sizeof value);
  return widen(value);
}

struct Operand {
  uint32_t address, leading, stride;
  explicit Operand(uint64_t descriptor)
      : address(static_cast<uint32_t>(descriptor & 0x3FFFU) << 4),
        leading(static_cast<uint32_t>(descriptor >> 16 & 0x3FFFU) << 4),
        stride(static_cast<uint32_t>(descriptor >> 32 & 0x3FFFU) << 4) {}
  float k_major(uint32_t row, uint32_t depth) const {
    return item_at(address + row / 8 * stride + row % 8 * 128 + 2 * depth);
  }
  float mn_major(uint32_t column, uint32_t depth) const {
    return item_at(address + column / 64 * leading + column % 64 * 2 + depth / 8 * stride +
                   depth % 8 * 128);
  }
};

float half_of(uint32_t pair, int which) {
  return widen(bfloat16{static_cast<uint16_t>(which == 0 ? pair : pair >> 16)});
}

}  // namespace

void run_product(const Products::Product& p) {
  const bool from_registers = p.part[0].a_registers != nullptr;
  const Operand a(p.a);
  const Operand b(p.b);
  std::vector<float> left(64 * kDepth);
  std::vector<float> right(static_cast<std::size_t>(p.columns) * kDepth);
  for (int k = 0; k < kDepth; ++k) {
    const auto depth = static_cast<uint32_t>(k);
    for (int row = 0; row < 64; ++row) {
      float value = 0;
      if (from_registers) {
        // Lane 4 (row % 8) + k % 8 / 2; register 0 to 3 by the halves of rows and depths.
        const int thread = row / 16 * 32 + row % 8 * 4 + k % 8 / 2;
        value = half_of(p.part[thread].a_registers[row % 16 / 8 + 2 * (k / 8)], k % 2);
      } else {
        value = a.k_major(static_cast<uint32_t>(row), depth);
      }
      left[static_cast<std::size_t>(row * kDepth + k)] = value;
    }
    for (int column = 0; column < p.columns; ++column) {
      const auto c = static_cast<uint32_t>(column);
      right[static_cast<std::size_t>(column * kDepth + k)] =
          from_registers ? b.mn_major(c, depth) : b.k_major(c, depth);
    }
  }
  for (int thread = 0; thread < 128; ++thread) {
    for (int i = 0; i < p.columns / 2; ++i) {
      const int row = accumulator_row(thread, i);
      const int column = accumulator_column(thread, i);
      float sum = p.add ? p.part[thread].d[i] : 0.0F;
      for (int k = 0; k < kDepth; ++k) {
        sum += left[static_cast<std::size_t>(row * kDepth + k)] *
               right[static_cast<std::size_t>(column * kDepth + k)];
      }
      p.part[thread].d[i] = sum;
    }
  }
}

}  // namespace marey::cuda
