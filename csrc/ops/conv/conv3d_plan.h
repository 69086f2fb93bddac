#pragma once
// A convolution between arrays whose geometry somebody else has worked out: the forward one, and
// each phase of the gradient of the input. Chooses the algorithm, packs the weights, cuts the
// output into blocks, and hands them to threads.
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/isa.h"
#include "ops/conv/conv3d.h"

namespace marey {

// An array (N, C, T, H, W): strides in items.
struct ConvArray {
  void* data = nullptr;
  int64_t batch = 0;
  ConvStrides strides;
};

// x of shape (N, C, T, H, W), by its strides.
ConvArray conv_array(const View& x);

// ConvTaps with the memory that it points to.
struct ConvAxis {
  int64_t step = 1;
  std::vector<int64_t> offset;
  std::vector<int64_t> source;
  ConvTaps taps() const {
    return {step, static_cast<int64_t>(offset.size()), offset.data(), source.data()};
  }
};

// The taps of an axis of a forward convolution.
ConvAxis forward_axis(int64_t kernel, int64_t stride, int64_t dilation, int64_t before);

// True if Winograd's algorithm computes a convolution with these taps.
bool winograd_fits(DType dtype, const std::array<ConvAxis, 3>& axes);

class Convolution {
 public:
  struct Extents {
    int64_t batch = 0;
    Triple in{}, out{};
    Triple first{};  // where outputs begin: `out` of them from here on are computed
  };
  struct Arrays {
    ConvArray x, past, out;      // out at position `first`
    int64_t history = 0;         // frames of `past`
    const void* bias = nullptr;  // (groups * filters,) of the type of the sums; null: none
    Activation activation = Activation::none;
    const LastFrames* last = nullptr;  // to be copied, too
  };

  // `weights` of group 0; those of the next are `group_stride` items further.
  Convolution(DType dtype, int64_t groups, int64_t channels, int64_t filters,
              std::array<ConvAxis, 3> axes, const ConvWeights& weights, int64_t group_stride,
              ConvAlgorithm algorithm, bool by_frames = false);

  void run(const Extents& extents, const Arrays& arrays) const;
  int64_t workspace(const Extents& extents) const;
  int64_t packed_bytes() const { return packed_.bytes(); }
  const char* algorithm() const;

 private:
  ConvProblem problem() const;
  void pack(const ConvWeights& weights, int64_t group_stride);
  // Calls fn(group, panel) for all of them, by all threads, with scratch for packing.
  template <class Fn>
  void each_panel(std::size_t scratch_bytes, const Fn& fn) const;
  const std::byte* packed_for_rows() const;

  DType dtype_;
  int64_t groups_, channels_, filters_;  // a depthwise one is one group of all
  bool depthwise_ = false;
  std::array<ConvAxis, 3> axes_;
  ConvAlgorithm algorithm_;
  ConvKernel kernel_;
  Buffer packed_;
  int64_t packed_of_group_ = 0;  // bytes
  // Made for the first call that wants it.
  mutable std::once_flag for_rows_once_;
  mutable Buffer for_rows_;
};

// What a Conv3d keeps.
struct Conv3d::Plan {
  std::string function;
  Shape weight;
  DType dtype;
  Conv3dOptions options;
  std::vector<float> bias32;
  std::vector<double> bias64;
  std::unique_ptr<Convolution> convolution;

  const void* bias() const {
    if (!bias32.empty()) return bias32.data();
    return bias64.empty() ? nullptr : bias64.data();
  }
  void copy_bias(const View& view);
  Convolution::Extents extents(const Shape& x) const;
};

}  // namespace marey
