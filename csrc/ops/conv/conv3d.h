#pragma once
// Space-time convolution (a correlation, as every network library means it):
//
//   y[n, k, t, h, w] = act(bias[k] + sum over c, i, j, l of
//                          weight[k, c, i, j, l] x[n, c, t sT + i dT - pT, h sH + j dH - pH, ...])
//
// with x zero outside of itself, s the stride, d the dilation, p the padding before; filters in
// groups read the channels of their group only.
//
// Axes are in the order N, C, T, H, W whatever the memory's: a layout is nothing but strides.
#include <array>
#include <cstddef>
#include <memory>
#include <vector>

#include "core/activation.h"
#include "core/buffer.h"
#include "core/dispatch.h"
#include "core/isa.h"
#include "core/view.h"

namespace marey {

enum class ConvAlgorithm : int { automatic, direct, winograd };

// Of time, height and width.
using Triple = std::array<int64_t, 3>;

struct Conv3dOptions {
  Triple stride{1, 1, 1};
  Triple dilation{1, 1, 1};
  Triple before{0, 0, 0};  // padding
  Triple after{0, 0, 0};
  int64_t groups = 1;
  Activation activation = Activation::none;
  ConvAlgorithm algorithm = ConvAlgorithm::automatic;
  bool by_frames = false;  // calls are of few frames each, and shall agree with those of many
};

// (N, K, T', H', W') for x (N, C, T, H, W) and weight (K, C / groups, kT, kH, kW). Throws
// ValueError in the name of `function` if they do not fit one another or the options.
Shape conv3d_shape(std::string_view function, const Shape& x, const Shape& weight,
                   const Conv3dOptions& options);

// Throws unless weight and bias are those of Conv3d.
void check_conv3d(std::string_view function, const View& weight, const View* bias,
                  const Conv3dOptions& options);

// ---- what kernels take ----

// One axis of a convolution: output q is the sum over taps i of input q * step + offset[i].
// Offsets rise; `source[i]` is the index of tap i in the weights as given.
struct ConvTaps {
  int64_t step = 1;
  int64_t count = 0;
  const int64_t* offset = nullptr;
  const int64_t* source = nullptr;
};

// Where an array of five axes lies, without its batch: strides in items, of C, T, H, W.
struct ConvStrides {
  int64_t c = 0;
  std::array<int64_t, 3> s{};
};

// How the direct kernel takes its inputs: as a window with channels side by side, or as rows with
// neighbours along W side by side.
enum class ConvInputs : int { window, rows };

// One group of a convolution: what the packed weights and the kernels depend on.
struct ConvProblem {
  std::array<ConvTaps, 3> taps;
  Triple in{};   // extents of the input
  Triple out{};  // extents of the output
  int64_t channels = 0;
  int64_t filters = 0;
  int64_t chunk = 0;  // channels that are summed before the next: a rounding order
  bool depthwise =
      false;         // a filter for each channel: `channels` of them, one product for each tap
  int64_t tile = 1;  // blocks start at multiples of it along H and W
  ConvInputs inputs = ConvInputs::window;
  bool together = false;  // a block has all panels

  int64_t tap_count() const { return taps[0].count * taps[1].count * taps[2].count; }
};

// Weights of a group as given: strides in items of the filter, the channel and the three taps.
struct ConvWeights {
  const void* data = nullptr;
  int64_t filter = 0;
  int64_t channel = 0;
  std::array<int64_t, 3> tap{};
};

// A block of the output: positions [begin, end) of the three axes, panels of filters
// [first_panel, last_panel).
struct ConvBlock {
  const ConvProblem* problem = nullptr;
  const void* x = nullptr;  // at channel 0 of the group
  ConvStrides x_strides;
  // A second array that holds the first `history` frames; `x` the others. Null: none.
  const void* past = nullptr;
  ConvStrides past_strides;
  int64_t history = 0;
  void* out = nullptr;  // at filter 0 of the group
  ConvStrides out_strides;
  const void* packed = nullptr;
  const void* bias = nullptr;  // of the type of the sums, (filters,); null: none
  Activation activation = Activation::none;
  Triple begin{}, end{};
  int64_t first_panel = 0, last_panel = 0;
  std::byte* scratch = nullptr;
  const ConvBlock* next = nullptr;  // the one that this thread is likely to be given next, or null
};

// How channels are summed in chunks where channels times taps are more than `whole`: about so many
// products at once, in multiples of `channels`, or `least` where that is more. The weights of a
// chunk and a panel stay in the second-level cache, and a long sum in parts gathers smaller
// rounding errors than in one.
struct ConvChunks {
  int64_t whole = 640;
  int64_t products = 512;
  int64_t channels = 16;
  int64_t least = 8;
};

// The functions of one type and algorithm. `panel` filters lie side by side; the last panel may be
// narrower. Costs are in multiply-adds of a register tile.
struct ConvKernel {
  int64_t panel = 0;
  int64_t tile = 1;              // of ConvProblem
  int64_t columns = 56;          // positions along W are cut at multiples: whole tiles
  int64_t columns_of_rows = 48;  // the same where they are lanes
  ConvChunks chunks{};
  int64_t block_bytes = 0;    // of scratch that a block should take at most
  double product_cost = 1.0;  // of one product of the direct sum
  double copy_cost = 0.0;     // of an input that a block reads
  double copy_cost_of_rows = 0.0;
  double weight_cost = 4.0;  // of a weight that a block reads
  bool takes_rows = false;   // whether it heeds ConvInputs
  // Bytes of the packed weights of one group.
  int64_t (*packed_bytes)(const ConvProblem&) = nullptr;
  // Packs panels [first, last) of all channels; bytes of scratch for it, null: none.
  void (*pack)(const ConvProblem&, const ConvWeights&, int64_t first, int64_t last, void* packed,
               std::byte* scratch) = nullptr;
  int64_t (*pack_scratch)(const ConvProblem&) = nullptr;
  // For ConvInputs::rows, if those are packed otherwise: packs panels of what is packed, as large.
  void (*pack_for_rows)(const ConvProblem&, const void* packed, int64_t first, int64_t last,
                        void* to) = nullptr;
  // Bytes of scratch for a block, which need not have data.
  int64_t (*scratch)(const ConvBlock&) = nullptr;
  // Positions that a block is as dear as, for tiles that are not filled. Null: those that it has.
  double (*positions)(const ConvBlock&) = nullptr;
  void (*run)(const ConvBlock&) = nullptr;
};

using SelectConv = ConvKernel(DType);
MAREY_DECLARE_KERNEL(select_conv3d_direct, SelectConv)
// float32, 3 x 3 taps in space of stride and dilation 1.
MAREY_DECLARE_KERNEL(select_conv3d_winograd, SelectConv)
MAREY_DECLARE_KERNEL(select_conv3d_depthwise, SelectConv)
// The first two for float32 by the tiles of AMX (core/tile_split.h); empty where there are none.
MAREY_DECLARE_KERNEL(select_conv3d_direct_split, SelectConv)
MAREY_DECLARE_KERNEL(select_conv3d_winograd_split, SelectConv)

class LastFrames;

// A convolution whose weights are packed once: for the instruction set that was in use then.
// weight: (K, C / groups, kT, kH, kW), any strides, float32, float64 or bfloat16; bias: null or
// (K,) of that type, or float32 with bfloat16. Both are copied. Calls may come from several
// threads.
class Conv3d {
 public:
  Conv3d(std::string_view function, const View& weight, const View* bias,
         const Conv3dOptions& options);
  ~Conv3d();
  Conv3d(Conv3d&&) noexcept;

  // x (N, C, T, H, W) of the weights' type and any strides; out (N, K, T', H', W'), any strides,
  // overlapping no input. `past`: null, or (N, C, P, H, W): frames that stand before those of x, as
  // if the two were concatenated. `last`: null, or frames that are copied beside the blocks that
  // read the same rows.
  void run(const View& x, const View* past, const View& out,
           const LastFrames* last = nullptr) const;

  // Bytes of scratch of all threads together for an input of this shape.
  int64_t workspace(const Shape& x) const;
  int64_t packed_bytes() const;
  // What runs for an input of this shape: "direct", "winograd" or "depthwise".
  const char* algorithm(const Shape& x) const;

  struct Plan;
  const Plan& plan() const { return *plan_; }

 private:
  std::unique_ptr<Plan> plan_;
};

// y = temporal(spatial(x)): a convolution in space, with its activation, then one along time, of
// kernels (1, kH, kW) and (kT, 1, 1), groups 1 and dilation 1. What lies between exists in tiles of
// at most kSeparableBytes, or one row of as many frames as the temporal kernel and kSeparableFrames
// results see. out overlaps no input.
inline constexpr int64_t kSeparableBytes = int64_t{4} << 20;
inline constexpr int64_t kSeparableFrames = 16;
void separable_conv3d(const Conv3d& spatial, const Conv3d& temporal, const View& x,
                      const View& out);
// The shape of its result.
Shape separable_shape(const Conv3d& spatial, const Conv3d& temporal, const Shape& x);

}  // namespace marey
