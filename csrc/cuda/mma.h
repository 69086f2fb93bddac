#pragma once
// The tensor cores of sm_80 and all later devices: one warp's product of bfloat16, and how its
// operands come from shared memory. PTX ISA 8.0, sections "mma" and "ldmatrix".
//
// Of lane l, with g = l / 4 and t = l % 4: a[0] to a[3] are rows g, g + 8, g, g + 8 and depths 2 t,
// 2 t, 2 t + 8, 2 t + 8, each with the depth behind it; b[0] and b[1] column g and depths 2 t and
// 2 t + 8; d[0] to d[3] rows g, g, g + 8, g + 8 and columns 2 t and 2 t + 1 by turns.
#include <cstdint>

#include "core/bfloat16.h"
#include "cuda/kernel.h"

#ifndef __CUDACC__
#include <cstring>
#endif

namespace marey::cuda {

#ifdef __CUDACC__

// Four 8 x 8 matrices of two-byte items; lane l names row l % 8 of matrix l / 8, 16 aligned bytes,
// and gets items 2 (l % 4) and the next of row l / 4 of each.
MAREY_DEVICE void load_matrices(uint32_t (&r)[4], const bfloat16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

// D (16, 8) += A (16, 16) B (16, 8).
MAREY_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#else

inline void load_matrices(uint32_t (&r)[4], const bfloat16* row) {
  on_cpu::check_aligned(row, 16);
  struct Argument {
    const bfloat16* row;
    uint32_t* r;
  } argument{row, r};
  on_cpu::collective(32, &argument, [](void* const* all) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        const auto* from = static_cast<const Argument*>(all[8 * matrix + lane / 4]);
        std::memcpy(static_cast<Argument*>(all[lane])->r + matrix, from->row + 2 * (lane % 4), 4);
      }
    }
  });
}

inline void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Argument {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
  } argument{d, a, {b0, b1}};
  on_cpu::collective(32, &argument, [](void* const* all) {
    const auto half = [](uint32_t pair, int which) {
      return widen(bfloat16{static_cast<uint16_t>(which == 0 ? pair : pair >> 16)});
    };
    float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const auto* mine = static_cast<const Argument*>(all[lane]);
      const int g = lane / 4;
      const int t = lane % 4;
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 4; ++j)
          left[g + j % 2 * 8][2 * t + i + j / 2 * 8] = half(mine->a[j], i);
        for (int j = 0; j < 2; ++j) right[2 * t + i + 8 * j][g] = half(mine->b[j], i);
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      float* d = static_cast<const Argument*>(all[lane])->d;
      for (int i = 0; i < 4; ++i) {
        for (int k = 0; k < 16; ++k) {
          d[i] += left[lane / 4 + i / 2 * 8][k] * right[k][2 * (lane % 4) + i % 2];
        }
      }
    }
  });
}

#endif

}  // namespace marey::cuda
