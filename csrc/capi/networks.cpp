// The functions of include/marey/marey.h for convolution and recurrent layers, whose weights are
// packed once.
#include <algorithm>

#include "capi/checked.h"
#include "capi/conv.h"
#include "ops/conv/conv3d.h"
#include "ops/recurrent/sequence.h"

using marey::Shape;
using marey::ValueError;
using marey::View;
using marey::capi::expect;
using marey::capi::guarded;
using marey::capi::view_of;

struct marey_conv3d {
  Shape weight;
  marey::Conv3dOptions options;
  marey::Conv3d packed;
};

struct marey_recurrent {
  marey::CellWeights packed;
};

namespace marey::capi {
namespace {

Triple triple(const int64_t (&values)[3]) { return {values[0], values[1], values[2]}; }

}  // namespace

Conv3dOptions plan_of(const char* name, const marey_conv3d_options* options) {
  const marey_conv3d_options wanted = options ? *options : marey_conv3d_defaults();
  if (wanted.activation < MAREY_NO_ACTIVATION || wanted.activation > MAREY_SILU) {
    throw ValueError(name, "activation", "a marey_activation",
                     std::to_string(static_cast<int>(wanted.activation)));
  }
  Conv3dOptions plan;
  plan.stride = triple(wanted.stride);
  plan.dilation = triple(wanted.dilation);
  plan.before = triple(wanted.before);
  plan.after = triple(wanted.after);
  plan.groups = wanted.groups;
  plan.activation = static_cast<Activation>(wanted.activation);
  return plan;
}

}  // namespace marey::capi

namespace {

static_assert(MAREY_LSTM == static_cast<int>(marey::Cell::lstm) &&
              MAREY_GRU_AFTER == static_cast<int>(marey::Cell::gru) &&
              MAREY_GRU_BEFORE == static_cast<int>(marey::Cell::gru_before) &&
              MAREY_RNN_TANH == static_cast<int>(marey::Cell::rnn_tanh) &&
              MAREY_RNN_RELU == static_cast<int>(marey::Cell::rnn_relu));
static_assert(MAREY_NO_ACTIVATION == static_cast<int>(marey::Activation::none) &&
              MAREY_SILU == static_cast<int>(marey::Activation::silu));

// A view of an array that may be missing, and where it is.
class Optional {
 public:
  Optional(const char* function, const char* argument, const marey_array* array)
      : given_(array != nullptr) {
    if (given_) view_ = view_of(function, argument, array);
  }
  const View* pointer() const { return given_ ? &view_ : nullptr; }

 private:
  bool given_;
  View view_;
};

}  // namespace

extern "C" {

marey_conv3d_options marey_conv3d_defaults(void) {
  return {{1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, 1, MAREY_NO_ACTIVATION};
}

marey_status marey_conv3d_create(const marey_array* weight, const marey_array* bias,
                                 const marey_conv3d_options* options, marey_conv3d** conv) {
  return guarded([&] {
    const char* name = "marey.Conv3d";
    const marey::Conv3dOptions plan = marey::capi::plan_of(name, options);
    const View filters = view_of(name, "weight", weight);
    const Optional added(name, "bias", bias);
    *conv =
        new marey_conv3d{filters.shape, plan, marey::Conv3d(name, filters, added.pointer(), plan)};
  });
}

marey_status marey_conv3d_run(const marey_conv3d* conv, const marey_array* x,
                              const marey_array* y) {
  return guarded([&] {
    const char* name = "marey.Conv3d";
    if (conv == nullptr) throw ValueError(name, "conv", "a convolution", "a null pointer");
    const View source = view_of(name, "x", x);
    const View target = view_of(name, "y", y);
    expect(name, "y", target, marey::conv3d_shape(name, source.shape, conv->weight, conv->options),
           source.dtype);
    conv->packed.run(source, nullptr, target);
  });
}

void marey_conv3d_destroy(marey_conv3d* conv) { delete conv; }

marey_status marey_recurrent_create(marey_cell cell, const marey_array* weight_ih,
                                    const marey_array* weight_hh, const marey_array* bias_ih,
                                    const marey_array* bias_hh, marey_recurrent** layer) {
  return guarded([&] {
    const char* name = "marey.recurrent";
    if (cell < MAREY_LSTM || cell > MAREY_RNN_RELU) {
      throw ValueError(name, "cell", "a marey_cell", std::to_string(static_cast<int>(cell)));
    }
    const Optional first(name, "bias_ih", bias_ih);
    const Optional second(name, "bias_hh", bias_hh);
    const marey::WeightViews views{view_of(name, "weight_ih", weight_ih),
                                   view_of(name, "weight_hh", weight_hh), first.pointer(),
                                   second.pointer(), nullptr};
    *layer = new marey_recurrent{marey::CellWeights(name, static_cast<marey::Cell>(cell), views)};
  });
}

marey_status marey_recurrent_run(const marey_recurrent* layer, const marey_array* x,
                                 const marey_array* h0, const marey_array* c0,
                                 const int64_t* lengths, int32_t reverse, const marey_array* y,
                                 const marey_array* h_n, const marey_array* c_n) {
  return guarded([&] {
    const char* name = "marey.recurrent";
    if (layer == nullptr) throw ValueError(name, "layer", "a layer", "a null pointer");
    const marey::CellWeights& packed = layer->packed;
    const Optional h(name, "h0", h0);
    const Optional c(name, "c0", c0);
    marey::SequenceArgs args;
    args.x = view_of(name, "x", x);
    if (args.x.ndim() != 3 || args.x.shape[2] != packed.input()) {
      throw ValueError(name, "x", "shape (T, N, " + std::to_string(packed.input()) + ")",
                       to_string(args.x.shape));
    }
    const Shape whole{3, {args.x.shape[0], args.x.shape[1], packed.hidden()}};
    const Shape state{2, {args.x.shape[1], packed.hidden()}};
    args.lengths = lengths;
    args.reverse = reverse != 0;
    args.h0 = h.pointer();
    args.c0 = c.pointer();
    args.y = view_of(name, "y", y);
    args.hn = view_of(name, "h_n", h_n);
    expect(name, "y", args.y, whole, packed.dtype());
    expect(name, "h_n", args.hn, state, packed.dtype());
    if (packed.cell() == marey::Cell::lstm) {
      args.cn = view_of(name, "c_n", c_n);
      expect(name, "c_n", args.cn, state, packed.real());
    }
    run_sequence(name, packed, args);
  });
}

void marey_recurrent_destroy(marey_recurrent* layer) { delete layer; }

}  // extern "C"
