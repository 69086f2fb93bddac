#pragma once
// Matrix products with what surrounds them in a layer:
//
//   C[m, n] = activation(sum_k A[m, k] B[k, n] + bias[n]) + residual[m, n]
//
// A and B are read with any strides, so that one kernel does a layer (B is the transposed weight)
// and both of its gradients (grad W, and grad^T x). All of float32, float64 or bfloat16; bfloat16
// is summed in float32; the activation is none, relu or gelu. Sums over k are taken in one order,
// whatever the number of threads. Float32 is multiplied as three parts of bfloat16 where there are
// tiles (core/tile_split.h).
#include "core/activation.h"
#include "core/buffer.h"
#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// Strides in items.
struct Matrix {
  void* data = nullptr;
  int64_t row = 0;
  int64_t item = 0;
};

// Below so many rows float32 is multiplied without tiles, which have as many: one that is filled by
// a few takes as long, and reads 6 bytes of a weight where multiply-adds read 4. So results of a
// few rows differ from those of many in the last bits.
inline constexpr int64_t kRowsOfTiles = 16;

// How B is packed for products of so many rows: by which instruction set's kernel, and whether as
// three parts of bfloat16.
struct LinearForm {
  Isa isa = Isa::baseline;
  bool split = false;
  bool operator==(const LinearForm&) const = default;
};
LinearForm linear_form(DType dtype, int64_t rows);
// Of x (..., C).
int64_t rows_of(const View& x);

// B, packed once for products of so many rows or others of the same form: panels of so many
// columns as its kernel multiplies at a time.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(const Matrix& b, DType dtype, int64_t depth, int64_t columns, int64_t rows);

  const std::byte* panel(int64_t i) const { return memory_.data() + i * panel_bytes_; }
  DType dtype() const { return dtype_; }
  int64_t depth() const { return depth_; }
  int64_t columns() const { return columns_; }
  int64_t panels() const { return panels_; }
  int64_t panel_bytes() const { return panel_bytes_; }
  LinearForm form() const { return form_; }

 private:
  Buffer memory_;
  DType dtype_ = DType::f32;
  LinearForm form_;
  int64_t depth_ = 0, columns_ = 0, panels_ = 0, panel_bytes_ = 0;
};

// bias: null or as many items of the same type as there are columns, adjacent. residual: as C,
// which it may be, or without data. C overlaps neither operand. Each thread's scratch is at most 96
// rows of A, 384 (768 of bfloat16) of the depth, and as many of C, 256 columns (with sixteen vector
// registers 256 and 576); of split operands 128 rows, 768 of the depth, and 768 columns: 1 MiB.
void multiply(const Matrix& a, int64_t rows, const PackedMatrix& b, const void* bias,
              Activation activation, const Matrix& residual, const Matrix& c);

// y (..., K) = activation(x (..., C) weight^T + bias) + residual, weight (K, C), bias (K) or null,
// residual as y or null.
void linear(const View& x, const PackedMatrix& weight, const View* bias, Activation activation,
            const View* residual, const View& y);
// The packed transpose of a weight (K, C).
PackedMatrix pack_weight(const View& weight, int64_t rows);

// Gradients of a layer without activation: grad_x = grad weight, grad_weight = grad^T x, grad_bias
// = the sum over rows; null where they are not wanted.
void linear_backward(const View& grad, const View& x, const View& weight, const View* grad_x,
                     const View* grad_weight, const View* grad_bias);

struct LinearRows {
  Matrix a;
  int64_t rows, depth;
  const std::byte* b;  // panels, `panel_bytes` apart
  int64_t panel_bytes, panels;
  int64_t columns;  // of C: the last panel may have fewer than its lanes
  const void* bias;
  Activation activation;
  Matrix residual, c;
  std::byte* scratch;
};

// Items of the depth in a block with thirty-two vector registers; twice as many of bfloat16.
inline constexpr int64_t kLinearDepth = 384;

struct LinearKernel {
  int64_t lanes = 0;       // of a panel
  int64_t unit_items = 0;  // items of the depth in a unit
  int64_t unit_bytes = 0;
  int64_t rows_of_call = 0, panels_of_call = 0;  // at most
  int64_t tile_rows = 0;                         // rows had better be a multiple
  int64_t scratch_bytes = 0;
  // Columns [first, first + lanes) of B, zeros beyond the last.
  void (*pack)(const Matrix& b, int64_t depth, int64_t columns, int64_t first, void* to) = nullptr;
  void (*rows)(const LinearRows&) = nullptr;
  // to[n] = sum_m A[m, n], of the type of the computation
  void (*sum_rows)(const Matrix& a, int64_t rows, int64_t columns, void* to) = nullptr;
};
using SelectLinear = LinearKernel(DType);
MAREY_DECLARE_KERNEL(select_linear, SelectLinear)
// By tiles, of float32; with them alone.
using SelectSplitLinear = LinearKernel();
MAREY_DECLARE_KERNEL(select_split_linear, SelectSplitLinear)

}  // namespace marey
