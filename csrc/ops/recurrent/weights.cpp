#include "ops/recurrent/weights.h"

#include <cstring>
#include <string>

#include "core/bfloat16.h"
#include "core/error.h"

namespace marey {

MAREY_STUB(select_recurrent, SelectRecurrent)

namespace {

void check_shape(std::string_view function, const char* argument, const View& view,
                 std::initializer_list<int64_t> shape, const std::string& why) {
  Shape expected;
  for (const int64_t extent : shape) expected.push_back(extent);
  if (!(view.shape == expected)) {
    throw ValueError(function, argument, "shape " + to_string(expected) + why,
                     to_string(view.shape));
  }
}

void check_dtype(std::string_view function, const char* argument, const View& view, DType dtype) {
  if (view.dtype != dtype) throw TypeError(function, argument, name(dtype), name(view.dtype));
}

Buffer packed(const RecurrentKernels& kernels, const View& weight, int gates, int64_t hidden) {
  const int64_t depth = weight.shape[1];
  const int64_t items = weight.dtype == DType::bf16 ? (depth + 1) / 2 : depth;
  const int64_t blocks = (hidden + kernels.lanes - 1) / kernels.lanes;
  Buffer buffer(blocks * gates * items * kernels.lanes * kernels.item_size);
  const int64_t item = item_size(weight.dtype);
  kernels.pack({weight.data, weight.stride(0) / item, weight.stride(1) / item, gates, hidden, depth,
                buffer.data()});
  return buffer;
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

CellWeights::CellWeights(std::string_view function, Cell cell, const WeightViews& views)
    : cell_(cell), dtype_(views.hh.dtype) {
  const int gates = weight_gates(cell);
  if (dtype_ == DType::u8) {
    throw TypeError(function, "weight_hh", "float32, float64 or bfloat16", name(dtype_));
  }
  if (views.hh.ndim() != 2 || views.hh.shape[0] != gates * views.hh.shape[1]) {
    throw ValueError(function, "weight_hh", "shape (" + std::to_string(gates) + " * H, H)",
                     to_string(views.hh.shape));
  }
  hidden_ = views.hh.shape[1];
  const std::string why = " for weight_hh of shape " + to_string(views.hh.shape);
  if (views.ih.ndim() != 2 || views.ih.shape[0] != gates * hidden_) {
    throw ValueError(function, "weight_ih", "shape (" + std::to_string(gates * hidden_) + ", I)" + why,
                     to_string(views.ih.shape));
  }
  input_ = views.ih.shape[1];
  check_dtype(function, "weight_ih", views.ih, dtype_);
  for (const auto& [argument, bias] :
       {std::pair{"bias_ih", views.bias_ih}, {"bias_hh", views.bias_hh}}) {
    if (bias == nullptr) continue;
    check_shape(function, argument, *bias, {gates * hidden_}, why);
    check_dtype(function, argument, *bias, dtype_);
  }
  if (views.peephole != nullptr) {
    check_shape(function, "peephole", *views.peephole, {3, hidden_}, why);
    check_dtype(function, "peephole", *views.peephole, dtype_);
  }

  kernels_ = select_recurrent_stub.get()(dtype_);
  ih_ = packed(*kernels_, views.ih, gates, hidden_);
  hh_ = packed(*kernels_, views.hh, gates, hidden_);

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
  if (views.peephole != nullptr) {
    const int64_t bytes = 3 * padded() * item_size(real());
    peephole_ = Buffer(bytes);
    std::memset(peephole_.data(), 0, static_cast<std::size_t>(bytes));
    for (int gate = 0; gate < 3; ++gate) {
      for (int64_t unit = 0; unit < hidden_; ++unit) {
        put(peephole_.data(), gate * padded() + unit, real(),
            item_at(*views.peephole,
                    gate * views.peephole->stride(0) + unit * views.peephole->stride(1)));
      }
    }
  }
}

}  // namespace marey
