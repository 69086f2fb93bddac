#pragma once
// What the forward and the backward entry share: checks, and the operands of one batch entry.
#include <string_view>

#include "ops/attention/attention.h"

namespace marey {

inline DType compute_type(DType dtype) { return dtype == DType::bf16 ? DType::f32 : dtype; }

// Throws unless shapes, types and options are those of attention(); `lse` and others may be null.
void check_attention(std::string_view function, const View& q, const View& k, const View& v,
                     const View* mask, const View* bias, const AttentionOptions& options,
                     const View& out, const View* lse);
void check_offsets(std::string_view function, const View& q, const View& k,
                   const int64_t* cu_seqlens_q, const int64_t* cu_seqlens_k, int64_t sequences,
                   const AttentionOptions& options);

// The operand of one batch entry, nothing if `view` is null. Axes: those of the batch, then head,
// row, item (fewer for lse).
AttentionOperand operand_of(const View* view, int batch_axes, int64_t batch, int64_t first_head);
// Axes: row, head, item (fewer for lse).
AttentionOperand packed_operand(const View& x, int64_t row, int64_t head);

}  // namespace marey
