// The functions of include/marey/marey.h for the gradients of convolution and recurrent layers.
#include <array>
#include <memory>
#include <numeric>
#include <vector>

#include "capi/checked.h"
#include "capi/conv.h"
#include "core/buffer.h"
#include "ops/conv/conv3d_backward.h"
#include "ops/recurrent/backward.h"

using marey::DType;
using marey::Shape;
using marey::View;
using marey::capi::expect;
using marey::capi::guarded;
using marey::capi::view_of;

extern "C" {

marey_status marey_conv3d_backward(const marey_array* grad, const marey_array* x,
                                   const marey_array* weight, const marey_conv3d_options* options,
                                   const marey_array* grad_x, const marey_array* grad_weight,
                                   const marey_array* grad_bias) {
  return guarded([&] {
    const char* name = "marey.conv3d_backward";
    const marey::Conv3dOptions plan = marey::capi::plan_of(name, options);
    const View gradient = view_of(name, "grad", grad);
    const View source = view_of(name, "x", x);
    const View filters = view_of(name, "weight", weight);
    expect(name, "grad", gradient, marey::conv3d_shape(name, source.shape, filters.shape, plan),
           source.dtype);
    if (filters.dtype != source.dtype) {
      throw marey::TypeError(name, "weight", marey::name(source.dtype), marey::name(filters.dtype));
    }
    if (grad_x != nullptr) {
      const View to = view_of(name, "grad_x", grad_x);
      expect(name, "grad_x", to, source.shape, source.dtype);
      conv3d_backward_input(gradient, filters, plan, to);
    }
    std::array<View, 2> to;
    if (grad_weight != nullptr) {
      to[0] = view_of(name, "grad_weight", grad_weight);
      expect(name, "grad_weight", to[0], filters.shape, source.dtype);
    }
    if (grad_bias != nullptr) {
      to[1] = view_of(name, "grad_bias", grad_bias);
      expect(name, "grad_bias", to[1], {1, {filters.shape[0]}}, source.dtype);
    }
    if (grad_weight != nullptr || grad_bias != nullptr) {
      conv3d_backward_weight(gradient, source, filters.shape, plan, grad_weight ? &to[0] : nullptr,
                             grad_bias ? &to[1] : nullptr);
    }
  });
}

marey_status marey_recurrent_backward(marey_cell cell, const marey_array* weight_ih,
                                      const marey_array* weight_hh, const marey_array* bias_ih,
                                      const marey_array* bias_hh, const marey_array* x,
                                      const marey_array* h0, const marey_array* c0,
                                      const int64_t* lengths, int32_t reverse,
                                      const marey_array* grad_y, const marey_array* grad_h,
                                      const marey_array* grad_c,
                                      const marey_recurrent_gradients* gradients) {
  return guarded([&] {
    const char* name = "marey.recurrent_backward";
    if (cell < MAREY_LSTM || cell > MAREY_RNN_RELU) {
      throw marey::ValueError(name, "cell", "a marey_cell", std::to_string(static_cast<int>(cell)));
    }
    if (gradients == nullptr) {
      throw marey::ValueError(name, "gradients", "where to write them", "a null pointer");
    }
    // Addresses of views are handed on: they stay where they are.
    std::vector<std::unique_ptr<View>> views;
    const auto optional = [&](const char* argument, const marey_array* array) -> const View* {
      if (array == nullptr) return nullptr;
      views.push_back(std::make_unique<View>(view_of(name, argument, array)));
      return views.back().get();
    };
    marey::BackwardArgs args;
    args.cell = static_cast<marey::Cell>(cell);
    args.weights = {view_of(name, "weight_ih", weight_ih), view_of(name, "weight_hh", weight_hh),
                    optional("bias_ih", bias_ih), optional("bias_hh", bias_hh), nullptr};
    const marey::CellWeights packed(name, args.cell, args.weights);
    args.x = view_of(name, "x", x);
    if (args.x.ndim() != 3 || args.x.shape[2] != packed.input()) {
      throw marey::ValueError(name, "x", "shape (T, N, " + std::to_string(packed.input()) + ")",
                              to_string(args.x.shape));
    }
    const int64_t T = args.x.shape[0];
    const int64_t N = args.x.shape[1];
    const int64_t H = packed.hidden();
    const DType dtype = packed.dtype();
    const DType real = packed.real();
    const bool lstm = args.cell == marey::Cell::lstm;
    const Shape sequence{3, {T, N, H}};
    const Shape state{2, {N, H}};
    const auto given = [&](const char* argument, const marey_array* array, const Shape& shape,
                           DType type) {
      const View* view = optional(argument, array);
      if (view != nullptr) expect(name, argument, *view, shape, type);
      return view;
    };
    expect(name, "x", args.x, {3, {T, N, packed.input()}}, dtype);
    args.lengths = lengths;
    args.reverse = reverse != 0;
    args.h0 = given("h0", h0, state, dtype);
    args.c0 = given("c0", c0, state, real);
    args.grad_y = given("grad_y", grad_y, sequence, dtype);
    args.grad_hn = given("grad_h", grad_h, state, dtype);
    args.grad_cn = given("grad_c", grad_c, state, real);

    // The way there.
    const int64_t rows =
        lengths == nullptr ? T * N : std::accumulate(lengths, lengths + N, int64_t{0});
    const auto bytes = [](int64_t items, DType type) { return items * marey::item_size(type); };
    marey::Buffer y(bytes(T * N * H, dtype));
    marey::Buffer hn(bytes(N * H, dtype));
    marey::Buffer cn(bytes(N * H, real));
    marey::Buffer kept(bytes(rows * marey::kept_gates(args.cell) * marey::kept_pitch(H), real));
    marey::SequenceArgs forward;
    forward.x = args.x;
    forward.lengths = lengths;
    forward.reverse = args.reverse;
    forward.h0 = args.h0;
    forward.c0 = args.c0;
    forward.y = marey::contiguous_view(y.data(), dtype, sequence);
    forward.hn = marey::contiguous_view(hn.data(), dtype, state);
    if (lstm) forward.cn = marey::contiguous_view(cn.data(), real, state);
    forward.kept = kept.data();
    run_sequence(name, packed, forward);

    // The way back.
    args.y = forward.y;
    args.kept = kept.data();
    const auto target = [&](const char* argument, const marey_array* array, const Shape& shape,
                            DType type) {
      const View view = view_of(name, argument, array);
      expect(name, argument, view, shape, type);
      return view;
    };
    const int64_t gates = marey::weight_gates(args.cell) * H;
    args.grad_x = target("gradients.x", gradients->x, args.x.shape, dtype);
    args.grad_ih =
        target("gradients.weight_ih", gradients->weight_ih, {2, {gates, packed.input()}}, real);
    args.grad_hh = target("gradients.weight_hh", gradients->weight_hh, {2, {gates, H}}, real);
    args.grad_bias_ih = target("gradients.bias_ih", gradients->bias_ih, {1, {gates}}, real);
    args.grad_bias_hh = target("gradients.bias_hh", gradients->bias_hh, {1, {gates}}, real);
    args.grad_h0 = target("gradients.h0", gradients->h0, state, dtype);
    if (lstm) args.grad_c0 = target("gradients.c0", gradients->c0, state, real);
    run_backward(name, args);
  });
}

}  // extern "C"
