#include "ops/recurrent/weights.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/bfloat16.h"
#include "core/error.h"
#include "core/parallel.h"

namespace marey {

MAREY_STUB_BF16(select_recurrent, SelectRecurrent)
MAREY_STUB_NO_BF16(select_recurrent_norm, SelectNorm)
MAREY_STUB(select_recurrent_split, SelectSplit)

namespace {

// A message is made when it is needed: these checks are a part of every step of a stream.
std::string for_weight_hh(const View& hh) {
  return " for weight_hh of shape " + to_string(hh.shape);
}

void check_shape(std::string_view function, const char* argument, const View& view,
                 std::initializer_list<int64_t> shape, const View& hh) {
  Shape expected;
  for (const int64_t extent : shape) expected.push_back(extent);
  if (!(view.shape == expected)) {
    throw ValueError(function, argument, "shape " + to_string(expected) + for_weight_hh(hh),
                     to_string(view.shape));
  }
}

void check_dtype(std::string_view function, const char* argument, const View& view, DType dtype) {
  if (view.dtype != dtype) throw TypeError(function, argument, name(dtype), name(view.dtype));
}

// Bytes that are worth a thread's time.
constexpr int64_t kPackedAtOnce = int64_t{256} << 10;

// `bytes`: of a block's panels.
Buffer packed(void (*pack)(const PackArgs&), const View& weight, int gates, int64_t hidden,
              int64_t blocks, int64_t bytes) {
  Buffer buffer(blocks * bytes);
  const int64_t item = item_size(weight.dtype);
  const int64_t grain = std::max<int64_t>(kPackedAtOnce / std::max<int64_t>(bytes, 1), 1);
  parallel_for(blocks, grain, 0, [&](int64_t begin, int64_t end, std::byte*) {
    pack({weight.data, weight.stride(0) / item, weight.stride(1) / item, gates, hidden,
          weight.shape[1], begin, end, buffer.data()});
  });
  return buffer;
}

Buffer packed(const RecurrentKernels& kernels, const View& weight, int gates, int64_t hidden) {
  const int64_t depth = weight.shape[1];
  const int64_t items = weight.dtype == DType::bf16 ? (depth + 1) / 2 : depth;
  const int64_t blocks = (hidden + kernels.lanes - 1) / kernels.lanes;
  return packed(kernels.pack, weight, gates, hidden, blocks,
                gates * items * kernels.lanes * kernels.item_size);
}

double item_at(const View& view, int64_t offset) {
  const std::byte* at = view.as<const std::byte>() + offset;
  switch (view.dtype) {
    case DType::f64: {
      double value;
      std::memcpy(&value, at, sizeof value);
      return value;
    }
    case DType::bf16: {
      bfloat16 value;
      std::memcpy(&value, at, sizeof value);
      return static_cast<double>(widen(value));
    }
    default: {
      float value;
      std::memcpy(&value, at, sizeof value);
      return static_cast<double>(value);
    }
  }
}

void put(std::byte* to, int64_t index, DType real, double value) {
  if (real == DType::f64) {
    reinterpret_cast<double*>(to)[index] = value;
  } else {
    reinterpret_cast<float*>(to)[index] = static_cast<float>(value);
  }
}

}  // namespace

const RecurrentKernels& recurrent_kernels(DType dtype) {
  return *select_recurrent_stub.get()(dtype);
}

const NormKernels& norm_kernels(DType dtype) { return *select_recurrent_norm_stub.get()(dtype); }

const SplitKernels* split_kernels(DType dtype, int64_t depth) {
  // Less fills too little of a tile.
  constexpr int64_t kLeast = 8;
  return dtype == DType::f32 && depth >= kLeast ? select_recurrent_split_stub.get()() : nullptr;
}

void check_weights(std::string_view function, Cell cell, const WeightViews& views) {
  const int gates = weight_gates(cell);
  const DType dtype = views.hh.dtype;
  if (dtype == DType::u8) {
    throw TypeError(function, "weight_hh", "float32, float64 or bfloat16", name(dtype));
  }
  if (views.hr != nullptr && views.hr->ndim() != 2) {
    throw ValueError(function, "weight_hr", "shape (P, H)", to_string(views.hr->shape));
  }
  if (views.hh.ndim() != 2 || views.hh.shape[0] != gates * views.hidden() ||
      (views.hr != nullptr && views.hh.shape[1] != views.hr->shape[0])) {
    const std::string rows = gates == 1 ? "H" : std::to_string(gates) + " * H";
    throw ValueError(function, "weight_hh",
                     views.hr == nullptr ? "shape (" + rows + ", H)"
                                         : "shape (" + rows + ", P) for weight_hr of shape " +
                                               to_string(views.hr->shape),
                     to_string(views.hh.shape));
  }
  const int64_t hidden = views.hidden();
  if (views.hr != nullptr) check_dtype(function, "weight_hr", *views.hr, dtype);
  if (views.ih.ndim() != 2 || views.ih.shape[0] != gates * hidden) {
    throw ValueError(function, "weight_ih",
                     "shape (" + std::to_string(gates * hidden) + ", I)" + for_weight_hh(views.hh),
                     to_string(views.ih.shape));
  }
  check_dtype(function, "weight_ih", views.ih, dtype);
  for (const auto& [argument, bias] :
       {std::pair{"bias_ih", views.bias_ih}, {"bias_hh", views.bias_hh}}) {
    if (bias == nullptr) continue;
    check_shape(function, argument, *bias, {gates * hidden}, views.hh);
    check_dtype(function, argument, *bias, dtype);
  }
  if (views.peephole != nullptr) {
    check_shape(function, "peephole", *views.peephole, {3, hidden}, views.hh);
    check_dtype(function, "peephole", *views.peephole, dtype);
  }
  if (views.norm_c != nullptr) {
    for (const auto& [argument, gain] :
         {std::pair{"norm_ih", views.norm_ih}, {"norm_hh", views.norm_hh}}) {
      check_shape(function, argument, *gain, {gates * hidden}, views.hh);
      check_dtype(function, argument, *gain, dtype);
    }
    check_shape(function, "norm_c", *views.norm_c, {2, hidden}, views.hh);
    check_dtype(function, "norm_c", *views.norm_c, dtype);
  }
}

CellWeights::CellWeights(std::string_view function, Cell cell, const WeightViews& views)
    : cell_(cell),
      dtype_(views.hh.dtype),
      projected_(views.hr != nullptr),
      normed_(views.norm_c != nullptr) {
  check_weights(function, cell, views);
  const int gates = weight_gates(cell);
  hidden_ = views.hidden();
  state_ = views.state();
  input_ = views.ih.shape[1];
  kernels_ = &recurrent_kernels(dtype_);
  norm_kernels_ = &marey::norm_kernels(dtype_);
  wide_kernels_ = &recurrent_kernels(DType::f32);
  split_ = split_kernels(dtype_, input_);
  if (split_ == nullptr) {
    ih_ = packed(*kernels_, views.ih, gates, hidden_);
  } else {
    ih_ = packed(split_->pack, views.ih, gates, hidden_, blocks(),
                 gates * split_depth(input_) * kernels_->lanes * split_->item_size);
  }
  hh_ = packed(*kernels_, views.hh, gates, hidden_);
  if (views.hr != nullptr) hr_ = packed(*kernels_, *views.hr, 1, state_);

  const int64_t lanes = kernels_->lanes;
  const int shown = panel_gates(cell);
  const int64_t bias_bytes = blocks() * shown * lanes * item_size(real());
  bias_ = Buffer(bias_bytes);
  std::memset(bias_.data(), 0, static_cast<std::size_t>(bias_bytes));
  for (int gate = 0; gate < shown; ++gate) {
    // A GRU's n has its two biases in two places; all others are added up.
    const bool apart = cell == Cell::gru && gate >= 2;
    const int row = gate == 3 && cell == Cell::gru ? 2 : gate;
    for (int64_t unit = 0; unit < hidden_; ++unit) {
      double sum = 0;
      const int64_t at = row * hidden_ + unit;
      if (views.bias_ih != nullptr && !(apart && gate == 3)) {
        sum += item_at(*views.bias_ih, at * views.bias_ih->stride(0));
      }
      if (views.bias_hh != nullptr && !(apart && gate == 2)) {
        sum += item_at(*views.bias_hh, at * views.bias_hh->stride(0));
      }
      put(bias_.data(), (unit / lanes * shown + gate) * lanes + unit % lanes, real(), sum);
    }
  }
  // Rows (count, H) of `view`, the last axis strided by `stride`, each padded to whole blocks.
  const auto put_rows = [&](Buffer& to, int64_t at, const View& view, int64_t count, int64_t row,
                            int64_t stride) {
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t unit = 0; unit < hidden_; ++unit) {
        put(to.data(), (at + k) * padded() + unit, real(), item_at(view, k * row + unit * stride));
      }
    }
  };
  const auto zeros = [&](int64_t rows) {
    const int64_t bytes = rows * padded() * item_size(real());
    Buffer buffer(bytes);
    std::memset(buffer.data(), 0, static_cast<std::size_t>(bytes));
    return buffer;
  };
  if (views.peephole != nullptr) {
    peephole_ = zeros(3);
    put_rows(peephole_, 0, *views.peephole, 3, views.peephole->stride(0),
             views.peephole->stride(1));
  }
  if (views.norm_c != nullptr) {
    norms_ = zeros(10);
    put_rows(norms_, 0, *views.norm_ih, 4, hidden_ * views.norm_ih->stride(0),
             views.norm_ih->stride(0));
    put_rows(norms_, 4, *views.norm_hh, 4, hidden_ * views.norm_hh->stride(0),
             views.norm_hh->stride(0));
    put_rows(norms_, 8, *views.norm_c, 2, views.norm_c->stride(0), views.norm_c->stride(1));
  }
}

const std::byte* CellWeights::split_hh(int64_t batch) const {
  // Without tiles for the inputs there are none for the states.
  //
  // Two tiles of rows, so that each tile loaded serves two products: 16 to 24 rows were no faster,
  // and fewer units slower. The gradients of states, on the way back, gained nothing.
  constexpr int64_t kRows = 32, kUnits = 256;
  const int gates = weight_gates(cell_);
  if (split_ == nullptr || cell_ == Cell::gru_before || projected_ || normed_ || batch < kRows ||
      state_ < kUnits) {
    return nullptr;
  }
  const int64_t lanes = kernels_->lanes;
  const int64_t panel = split_depth(state_) * lanes * split_->item_size;
  std::call_once(split_hh_.once, [&] {
    split_hh_.panels = Buffer(blocks() * gates * panel);
    const int64_t grain = std::max<int64_t>(kPackedAtOnce / panel, 1);
    parallel_for(blocks() * gates, grain, 0, [&](int64_t begin, int64_t end, std::byte*) {
      for (int64_t k = begin; k < end; ++k) {
        const std::byte* from = hh_.data() + k * state_ * lanes * item_size(dtype_);
        split_->pack({from, 1, lanes, 1, lanes, state_, 0, 1, split_hh_.panels.data() + k * panel});
      }
    });
  });
  return split_hh_.panels.data();
}

const std::byte* CellWeights::wide(Derived& to, const Buffer& pairs, int64_t depth, int64_t rows,
                                   int64_t total) const {
  // As measured with AVX2. Fewer rows at once are bound by reading the weights, more of them where
  // these come from memory; and it takes some rows to earn back the panels.
  constexpr int64_t kRows = 4, kRowsFromMemory = 16, kWorth = 64;
  constexpr int64_t kNearBytes = int64_t{16} << 20;
  if (kernels_->widen == nullptr) return nullptr;
  const int64_t panel = depth * kernels_->lanes * item_size(DType::f32);
  const int64_t of_pairs = (depth + 1) / 2 * kernels_->lanes * kernels_->item_size;
  const int64_t panels = blocks() * weight_gates(cell_);
  if (rows < (panels * panel <= kNearBytes ? kRows : kRowsFromMemory)) return nullptr;
  if (to.rows.fetch_add(total, std::memory_order_relaxed) + total < kWorth) return nullptr;
  std::call_once(to.once, [&] {
    to.panels = Buffer(panels * panel);
    const int64_t grain = std::max<int64_t>(kPackedAtOnce / std::max<int64_t>(panel, 1), 1);
    parallel_for(panels, grain, 0, [&](int64_t begin, int64_t end, std::byte*) {
      for (int64_t k = begin; k < end; ++k) {
        kernels_->widen(pairs.data() + k * of_pairs, depth, to.panels.data() + k * panel);
      }
    });
  });
  return to.panels.data();
}

}  // namespace marey
