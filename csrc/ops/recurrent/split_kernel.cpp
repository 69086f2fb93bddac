// Products of float32 by tiles of AMX. Other instruction sets have none, and little to compile.
#include "ops/recurrent/split_kernels.h"
#if defined(__AMX_BF16__)
#include "core/tile_split.h"
#include "ops/recurrent/panels.h"
#endif

namespace marey::MAREY_ISA_NS {

#if defined(__AMX_BF16__)
namespace {

using namespace recurrent;

static_assert(split_depth(1) == kSplitDepth && kSplitRest == kTileItems);
static_assert(kBlock<float> == kSplitDepth);  // a block of units is a step of the depth
static_assert(split_pitch(1) == kSplitStep + kSplitDepth);

constexpr int64_t kLanes = kBlock<float>;

constexpr int64_t panel_of(int64_t depth) { return split_depth(depth) / 2 * kLanes; }

void pack(const PackArgs& args) {
  const auto* weight = static_cast<const float*>(args.weight);
  const int64_t panel = panel_of(args.depth);
  auto* to = static_cast<Split*>(args.to) + args.block_begin * args.gates * panel;
  for (int64_t block = args.block_begin; block < args.block_end; ++block) {
    const int64_t unit = block * kLanes;
    for (int gate = 0; gate < args.gates; ++gate, to += panel) {
      pack_split<kVectors>(weight + (gate * args.hidden + unit) * args.row_stride, args.item_stride,
                           args.row_stride, args.depth, std::min(kLanes, args.hidden - unit), to);
    }
  }
}

void split(const SplitArgs& args) {
  split_rows(args.from, args.row_stride, args.item_stride, args.rows, args.depth,
             static_cast<bfloat16*>(args.to), args.pitch);
}

void project(const ProjectArgs& args) {
  using V = Vec<float>;
  const int64_t panel = panel_of(args.depth);
  const SplitRows a{static_cast<const bfloat16*>(args.a), args.a_pitch};
  for (int64_t block = args.block_begin; block < args.block_end; ++block) {
    const auto* weights =
        static_cast<const Split*>(args.weights) + block * args.weight_gates * panel;
    auto* first = static_cast<float*>(args.to) + block * args.gates * args.gate_stride;
    const auto* bias = static_cast<const float*>(args.bias) + block * args.gates * kLanes;
    for (int gate = 0; gate < args.gates; ++gate) {
      float* to = first + gate * args.gate_stride;
      const bool product = gate < args.weight_gates;
      if (product) {
        const Split* b = weights + gate * panel;
        // The panel behind it is most often the next. To fetch what is behind the last does no
        // harm.
        split_product<kVectors>(args.rows, a, b, split_steps(args.depth), to, false, b + panel);
      }
      for (int64_t lane = 0; lane < kLanes; lane += kWidth<float>) {
        const V of_units = load<V>(bias + gate * kLanes + lane);
        for (int64_t row = 0; row < args.rows; ++row) {
          float* at = to + row * kLanes + lane;
          store(at, product ? load<V>(at) + of_units : of_units);
        }
      }
    }
  }
}

void product(const SplitProductArgs& args) {
  split_product<kVectors>(args.rows, {static_cast<const bfloat16*>(args.a), args.a_pitch},
                          static_cast<const Split*>(args.panel), split_steps(args.depth),
                          static_cast<float*>(args.to), args.accumulate);
}

constexpr SplitKernels kKernels = {sizeof(Split) / 2, &pack, &split, &project, &product};

}  // namespace
#endif

const SplitKernels* select_recurrent_split() {
#if defined(__AMX_BF16__)
  if (tiles_active()) return &kKernels;
#endif
  return nullptr;
}

}  // namespace marey::MAREY_ISA_NS
