#pragma once
// Powers of two by a table of sixteen, in vectors of AVX-512, for attention_tiles.h. Their argument
// is a score times a factor less a whole number, the reference, which goes into the addition that
// rounds it to a sixteenth:
//
//   t = factor s + (1.5 2^19 - reference)     sixteenths in the low four bits, whole ones above
//   u = factor s - (t - (1.5 2^19 - reference + kVertex))
//   2^(factor s - reference) = 2^whole table[sixteenth] (u^2 + kConstant)
//
// nine instructions where exp2_nonpositive and its argument take twelve.
#include <bit>

#include "core/simd.h"

namespace marey::MAREY_ISA_NS {

class TableExp2 {
 public:
  static constexpr float kRound = 786432.0F;  // 1.5 * 2^19: adding it rounds to a sixteenth
  static constexpr float kLeast = -122.0F;    // powers below 2 to this are zero

  // What a row of scores has in common. `offset`: kRound less the reference.
  struct Row {
    __m512 factor, round, vertex;
    [[gnu::always_inline]] Row(float of_scores, float offset)
        : factor(_mm512_set1_ps(of_scores)),
          round(_mm512_set1_ps(offset)),
          vertex(_mm512_set1_ps(offset + kVertex)) {}
  };

  // kSafe: no power is below the least.
  template <bool kSafe>
  [[gnu::always_inline]] __m512 weight(__m512 s, const Row& row) const {
    const __m512 t = _mm512_fmadd_ps(s, row.factor, row.round);
    const __m512 u = _mm512_fmsub_ps(s, row.factor, _mm512_sub_ps(t, row.vertex));
    const __m512i bits = _mm512_castps_si512(t);
    const __m512 scale = _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_permutexvar_epi32(bits, table_), _mm512_slli_epi32(bits, 19)));
    const __m512 p = _mm512_fmadd_ps(u, u, constant_);
    if constexpr (kSafe) return _mm512_mul_ps(scale, p);
    return _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(t, least_, _CMP_NLT_UQ), scale, p);
  }

 private:
  // 2^r = kLeading ((r + kVertex)^2 + kConstant) on [-1/32, 1/32], relative error 6.9e-7, with a
  // vertex that is a sixteenth.
  static constexpr float kVertex = 1.4375F;
  static constexpr float kConstant = 2.0810338F;
  static constexpr double kLeading = 0.2411125216381536;
  struct Table {
    alignas(64) int32_t bits[16];
  };
  // The powers times kLeading. The sixteenths, which are added to the place of the exponent as they
  // are, are taken off beforehand.
  static constexpr Table kTable = [] {
    constexpr double kPowers[16] = {1.0,
                                    1.0442737824274138,
                                    1.0905077326652577,
                                    1.1387886347566916,
                                    1.189207115002721,
                                    1.241857812073484,
                                    1.2968395546510096,
                                    1.3542555469368927,
                                    1.4142135623730951,
                                    1.4768261459394993,
                                    1.5422108254079407,
                                    1.6104903319492543,
                                    1.681792830507429,
                                    1.7562521603732995,
                                    1.8340080864093424,
                                    1.9152065613971474};
    Table table{};
    for (int i = 0; i < 16; ++i) {
      table.bits[i] = std::bit_cast<int32_t>(static_cast<float>(kPowers[i] * kLeading)) - (i << 19);
    }
    return table;
  }();

  const __m512i table_ = _mm512_load_si512(kTable.bits);
  const __m512 least_ = _mm512_set1_ps(kRound + kLeast);
  const __m512 constant_ = _mm512_set1_ps(kConstant);
};

}  // namespace marey::MAREY_ISA_NS
