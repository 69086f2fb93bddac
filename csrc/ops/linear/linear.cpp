#include "ops/linear/linear.h"

#include <algorithm>

#include "core/bfloat16.h"
#include "core/error.h"
#include "core/parallel.h"

namespace marey {

MAREY_STUB_BF16(select_linear, SelectLinear)
MAREY_STUB(select_split_linear, SelectSplitLinear)

namespace {

constexpr std::string_view kName = "marey.linear";
// Ranges a thread, so that all end together.
constexpr int64_t kRangesPerThread = 4;
// Items of the depth that are packed for some panels after each other, a multiple of every kernel's
// unit.
constexpr int64_t kPackedAtOnce = 128;
constexpr int64_t kPackedPanels = 4;
// Rows whose sums are taken one after the other.
constexpr int64_t kSummedRows = 4096;

int64_t divided(int64_t x, int64_t by) { return (x + by - 1) / by; }

// The rows of a view whose last axis is `items` long, if one stride steps through them all.
bool as_matrix(const View& x, Matrix& matrix, int64_t& rows) {
  const int last = x.ndim() - 1;
  const int64_t size = item_size(x.dtype);
  matrix = {x.data, 0, x.stride(last) / size};
  rows = 1;
  int64_t step = 0;
  for (int axis = last - 1; axis >= 0; --axis) {
    if (x.shape[axis] == 1) continue;
    if (rows > 1 && x.stride(axis) != step * rows) return false;
    if (rows == 1) step = x.stride(axis);
    rows *= x.shape[axis];
  }
  matrix.row = step / size;
  return true;
}

Matrix matrix_of(const char* argument, const View& x, int64_t& rows) {
  Matrix matrix;
  if (!as_matrix(x, matrix, rows)) {
    throw ValueError(kName, argument, "leading axes that one stride steps through", "others");
  }
  return matrix;
}

Matrix transposed(const Matrix& m) { return {m.data, m.item, m.row}; }

void* offset(const Matrix& m, DType dtype, int64_t row, int64_t item) {
  return static_cast<std::byte*>(m.data) + (row * m.row + item * m.item) * item_size(dtype);
}

// Rows of adjacent items towards the second-level cache.
void fetch(const void* first, const Matrix& m, DType dtype, int64_t rows, int64_t items) {
  const int64_t size = item_size(dtype);
  const auto* row = static_cast<const std::byte*>(first);
  for (int64_t i = 0; i < rows; ++i, row += m.row * size) {
    for (int64_t byte = 0; byte < items * size; byte += 64) __builtin_prefetch(row + byte, 0, 2);
  }
}

LinearKernel kernel_of(LinearForm form, DType dtype) {
  return form.split ? select_split_linear_stub.get(form.isa)()
                    : select_linear_stub.get(form.isa)(dtype);
}

}  // namespace

LinearForm linear_form(DType dtype, int64_t rows) {
  const bool tiles = active_isa() == Isa::avx512_amx;
  return {select_linear_stub.chosen(), tiles && dtype == DType::f32 && rows >= kRowsOfTiles};
}

PackedMatrix::PackedMatrix(const Matrix& b, DType dtype, int64_t depth, int64_t columns,
                           int64_t rows)
    : dtype_(dtype), form_(linear_form(dtype, rows)), depth_(depth), columns_(columns) {
  const LinearKernel kernel = kernel_of(form_, dtype);
  panels_ = divided(columns, kernel.lanes);
  panel_bytes_ = divided(depth, kernel.unit_items) * kernel.lanes * kernel.unit_bytes;
  memory_ = Buffer(panels_ * panel_bytes_);
  if (depth == 0) return;
  // Some panels at a time, by parts of the depth: neighbours share lines of memory, and pages. Rows
  // lie pages apart, which the processor does not foresee: so they are fetched first.
  const int64_t unit = kernel.lanes * kernel.unit_bytes / kernel.unit_items;  // bytes of an item
  const int64_t groups = divided(panels_, kPackedPanels);
  parallel_for(groups, 1, 0, [&](int64_t begin, int64_t end, std::byte*) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * kPackedPanels;
      const int64_t last = std::min(first + kPackedPanels, panels_);
      const int64_t lanes = std::min(last * kernel.lanes, columns) - first * kernel.lanes;
      for (int64_t k = 0; k < depth; k += kPackedAtOnce) {
        const int64_t count = std::min(kPackedAtOnce, depth - k);
        const Matrix part{offset(b, dtype, k, 0), b.row, b.item};
        if (b.item == 1) fetch(offset(b, dtype, k, first * kernel.lanes), b, dtype, count, lanes);
        for (int64_t i = first; i < last; ++i) {
          kernel.pack(part, count, columns, i * kernel.lanes,
                      memory_.data() + i * panel_bytes_ + k * unit);
        }
      }
    }
  });
}

void multiply(const Matrix& a, int64_t rows, const PackedMatrix& b, const void* bias,
              Activation activation, const Matrix& residual, const Matrix& c) {
  if (rows == 0 || b.columns() == 0) return;
  const LinearKernel kernel = kernel_of(b.form(), b.dtype());
  const int64_t size = item_size(b.dtype());
  const int64_t wanted = kRangesPerThread * num_threads();
  const int64_t blocks = divided(rows, kernel.rows_of_call);
  const int64_t tile = kernel.tile_rows;
  const int64_t block = std::min(divided(divided(rows, blocks), tile) * tile, kernel.rows_of_call);
  const int64_t groups_wanted = std::clamp<int64_t>(
      divided(wanted, blocks), divided(b.panels(), kernel.panels_of_call), b.panels());
  const int64_t group = divided(b.panels(), groups_wanted);
  const int64_t groups = divided(b.panels(), group);
  const int64_t row_blocks = divided(rows, block);
  // The blocks of rows of one group follow each other and find its panels in the cache.
  parallel_for(groups * row_blocks, 1, static_cast<std::size_t>(kernel.scratch_bytes),
               [&](int64_t begin, int64_t end, std::byte* memory) {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t first = task % row_blocks * block;
                   const int64_t panel = task / row_blocks * group;
                   const int64_t column = panel * kernel.lanes;
                   LinearRows part{};
                   part.a = {offset(a, b.dtype(), first, 0), a.row, a.item};
                   part.rows = std::min(block, rows - first);
                   part.depth = b.depth();
                   part.b = b.panel(panel);
                   part.panel_bytes = b.panel_bytes();
                   part.panels = std::min(group, b.panels() - panel);
                   part.columns = std::min(part.panels * kernel.lanes, b.columns() - column);
                   if (bias != nullptr)
                     part.bias = static_cast<const std::byte*>(bias) + column * size;
                   part.activation = activation;
                   if (residual.data != nullptr) {
                     part.residual = {offset(residual, b.dtype(), first, column), residual.row,
                                      residual.item};
                   }
                   part.c = {offset(c, b.dtype(), first, column), c.row, c.item};
                   part.scratch = memory;
                   kernel.rows(part);
                 }
               });
}

int64_t rows_of(const View& x) {
  int64_t rows = 1;
  for (int axis = 0; axis + 1 < x.ndim(); ++axis) rows *= x.shape[axis];
  return rows;
}

PackedMatrix pack_weight(const View& weight, int64_t rows) {
  if (weight.ndim() != 2) {
    throw ValueError(kName, "weight", "shape (K, C)", to_string(weight.shape));
  }
  const int64_t size = item_size(weight.dtype);
  const Matrix matrix{weight.data, weight.stride(0) / size, weight.stride(1) / size};
  return {transposed(matrix), weight.dtype, weight.shape[1], weight.shape[0], rows};
}

void linear(const View& x, const PackedMatrix& weight, const View* bias, Activation activation,
            const View* residual, const View& y) {
  if (x.ndim() < 1 || x.shape[x.ndim() - 1] != weight.depth()) {
    throw ValueError(kName, "x",
                     "shape (..., " + std::to_string(weight.depth()) + ") for weight of shape (" +
                         std::to_string(weight.columns()) + ", " + std::to_string(weight.depth()) +
                         ")",
                     to_string(x.shape));
  }
  if (x.dtype != weight.dtype()) throw TypeError(kName, "x", name(weight.dtype()), name(x.dtype));
  if (bias != nullptr) {
    if (bias->ndim() != 1 || bias->shape[0] != weight.columns()) {
      throw ValueError(kName, "bias", "shape (" + std::to_string(weight.columns()) + ",)",
                       to_string(bias->shape));
    }
    if (bias->dtype != x.dtype) throw TypeError(kName, "bias", name(x.dtype), name(bias->dtype));
    if (bias->shape.count() > 0 && !is_contiguous(*bias, 0, 1))
      throw ValueError(kName, "bias", "adjacent items", "others");
  }
  if (residual != nullptr) {
    if (!(residual->shape == y.shape)) {
      throw ValueError(kName, "residual", "shape " + to_string(y.shape),
                       to_string(residual->shape));
    }
    if (residual->dtype != x.dtype) {
      throw TypeError(kName, "residual", name(x.dtype), name(residual->dtype));
    }
  }
  if (y.shape.count() == 0) return;
  int64_t rows = 0;
  int64_t of_y = 0;
  const Matrix a = matrix_of("x", x, rows);
  multiply(a, rows, weight, bias == nullptr ? nullptr : bias->data, activation,
           residual == nullptr ? Matrix{} : matrix_of("residual", *residual, of_y),
           matrix_of("out", y, of_y));
}

void linear_backward(const View& grad, const View& x, const View& weight, const View* grad_x,
                     const View* grad_weight, const View* grad_bias) {
  constexpr std::string_view kBackward = "marey.linear_backward";
  const DType dtype = weight.dtype;
  if (weight.ndim() != 2) {
    throw ValueError(kBackward, "weight", "shape (K, C)", to_string(weight.shape));
  }
  const int64_t outputs = weight.shape[0];
  const int64_t inputs = weight.shape[1];
  for (const auto& [argument, view, last] :
       {std::tuple{"grad", &grad, outputs}, {"x", &x, inputs}}) {
    bool fits = view->ndim() == x.ndim() && view->ndim() > 0 && view->shape[x.ndim() - 1] == last;
    for (int axis = 0; fits && axis < x.ndim() - 1; ++axis) {
      fits = view->shape[axis] == x.shape[axis];
    }
    if (!fits) {
      throw ValueError(kBackward, argument,
                       "shape (..., " + std::to_string(last) + ") for weight of shape " +
                           to_string(weight.shape) + " and x of shape " + to_string(x.shape),
                       to_string(view->shape));
    }
    if (view->dtype != dtype) throw TypeError(kBackward, argument, name(dtype), name(view->dtype));
  }
  const int64_t size = item_size(dtype);
  const Matrix w{weight.data, weight.stride(0) / size, weight.stride(1) / size};
  int64_t rows = 0;
  const Matrix g = matrix_of("grad", grad, rows);
  if (grad_x != nullptr) {
    int64_t count = 0;
    const PackedMatrix b(w, dtype, outputs, inputs, rows);
    multiply(g, rows, b, nullptr, Activation::none, {}, matrix_of("grad_x", *grad_x, count));
  }
  if (grad_weight != nullptr) {
    int64_t count = 0;
    const PackedMatrix b(matrix_of("x", x, count), dtype, rows, inputs, outputs);
    const Matrix to{grad_weight->data, grad_weight->stride(0) / size,
                    grad_weight->stride(1) / size};
    multiply(transposed(g), outputs, b, nullptr, Activation::none, {}, to);
  }
  if (grad_bias == nullptr) return;
  // Sums of so many rows, in double where they are; then the sums of those.
  const LinearKernel kernel = select_linear_stub.get()(dtype);
  const DType computed = dtype == DType::bf16 ? DType::f32 : dtype;
  const int64_t bytes = outputs * item_size(computed);
  const int64_t blocks = std::max<int64_t>(divided(rows, kSummedRows), 1);
  const Buffer partial(blocks * bytes);
  parallel_for(blocks, 1, 0, [&](int64_t begin, int64_t end, std::byte*) {
    for (int64_t i = begin; i < end; ++i) {
      const Matrix part{offset(g, dtype, i * kSummedRows, 0), g.row, g.item};
      kernel.sum_rows(part, std::min(kSummedRows, rows - i * kSummedRows), outputs,
                      partial.data() + i * bytes);
    }
  });
  const LinearKernel of_sums = select_linear_stub.get()(computed);
  const Buffer total(bytes);
  of_sums.sum_rows({partial.data(), outputs, 1}, blocks, outputs, total.data());
  for (int64_t n = 0; n < outputs; ++n) {
    void* to = static_cast<std::byte*>(grad_bias->data) + n * size;
    if (dtype == DType::f64) {
      *static_cast<double*>(to) = reinterpret_cast<const double*>(total.data())[n];
    } else if (dtype == DType::f32) {
      *static_cast<float*>(to) = reinterpret_cast<const float*>(total.data())[n];
    } else {
      *static_cast<bfloat16*>(to) = narrow(reinterpret_cast<const float*>(total.data())[n]);
    }
  }
}

}  // namespace marey
