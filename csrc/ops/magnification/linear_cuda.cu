// The steps of linear.cpp for all frames of a call at once. Its full-size work is the first halving
// and the last doubling, each one visit to memory; what lies between has a quarter of the pixels or
// fewer and is found in the second-level cache when a call has few frames.
#include <string>

#include "core/error.h"
#include "ops/magnification/linear_cuda.h"
#include "ops/pyramid/pyramid_cuda.h"
#include "ops/temporal/temporal_cuda.h"

namespace marey::cuda {
namespace {

constexpr std::string_view kName = "marey.Magnifier";
constexpr int kChannelAxis = -1;
constexpr int kThreads = 256;
constexpr int kMostSections = 32;

struct StartArguments {
  const float* first;  // the first frame's values of the level that is filtered
  float* z;            // 2 * sections rows of `series`
  int64_t series;
  int rows;
  float zi[2 * kMostSections];
};

// The steady state for a signal that has always been what the first frame is.
MAREY_KERNEL(kThreads)
magnifier_start_kernel(MAREY_GRID_CONSTANT StartArguments a) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= a.series) return;
  const float x = a.first[k];
  for (int row = 0; row < a.rows; ++row) a.z[row * a.series + k] = a.zi[row] * x;
}

// In place, a thread a pixel of three channels; see attenuate_chroma in linear.h.
MAREY_KERNEL(kThreads)
attenuate_chroma_kernel(float* pixels, int64_t count, float chroma) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= count) return;
  float* pixel = pixels + 3 * k;
  const float r = pixel[0];
  const float g = pixel[1];
  const float b = pixel[2];
  const float grey = (1.0F - chroma) * fmaf(0.299F, r, fmaf(0.587F, g, 0.114F * b));
  pixel[0] = fmaf(chroma, r, grey);
  pixel[1] = fmaf(chroma, g, grey);
  pixel[2] = fmaf(chroma, b, grey);
}

View contiguous(void* data, DType dtype, std::initializer_list<int64_t> extents) {
  View view;
  view.data = data;
  view.dtype = dtype;
  for (int64_t extent : extents) view.shape.push_back(extent);
  int64_t stride = item_size(dtype);
  for (int axis = view.ndim() - 1; axis >= 0; --axis) {
    view.stride(axis) = stride;
    stride *= view.shape[axis];
  }
  return view;
}

}  // namespace

std::vector<Shape> magnifier_levels(const LinearMagnifierOptions& options, int64_t frames) {
  const int top =
      options.base_level + (options.gaussian ? 0 : static_cast<int>(options.alphas.size()));
  Shape shape;
  for (int64_t extent : {frames, options.height, options.width, options.channels}) {
    shape.push_back(extent);
  }
  std::vector<Shape> shapes{shape};
  for (int level = 1; level <= top; ++level) {
    shape[1] = half(shape[1]);
    shape[2] = half(shape[2]);
    shapes.push_back(shape);
  }
  return shapes;
}

void magnify(const Queue& queue, const LinearMagnifierOptions& options, const View& frames,
             const View& out, const std::vector<View>& filtered, const std::vector<View>& amplified,
             const View* zi, const View& zf) {
  const int base = options.base_level;
  const int top = static_cast<int>(filtered.size());
  const auto level_of = [](const std::vector<View>& levels, int level) -> const View& {
    return levels[static_cast<std::size_t>(level - 1)];
  };

  for (int level = 1; level <= base; ++level) {
    down(queue, kName, level == 1 ? frames : level_of(filtered, level - 1), kChannelAxis,
         level_of(filtered, level));
  }

  // Along time, in place.
  const View& coarse = level_of(filtered, base);
  const int64_t count = coarse.shape[0];
  const int64_t series = coarse.shape.count() / count;
  const auto sections = static_cast<int64_t>(options.sos.size() / 6);
  if (zi == nullptr) {
    if (sections > kMostSections) {
      throw ValueError(kName, "order", "at most 32 sections on a CUDA device",
                       std::to_string(sections));
    }
    StartArguments a{};
    a.first = coarse.as<const float>();
    a.z = zf.as<float>();
    a.series = series;
    a.rows = static_cast<int>(2 * sections);
    for (int row = 0; row < a.rows; ++row) {
      a.zi[row] = static_cast<float>(options.steady_zi[static_cast<std::size_t>(row)]);
    }
    launch(queue, {blocks_for(series, kThreads), kThreads}, &magnifier_start_kernel, a);
  }
  const View sos = contiguous(const_cast<double*>(options.sos.data()), DType::f64, {sections, 6});
  const View flat = contiguous(coarse.data, DType::f32, {count, series});
  const View before = zi == nullptr ? zf : *zi;
  sosfilt(queue, sos, flat, 0, flat, &before, &zf);

  // E at the base level, from the coarsest level up.
  const View* e = &coarse;
  double pending = options.gaussian ? options.alphas[0] : 0.0;  // a factor not yet multiplied in
  if (!options.gaussian) {
    for (int level = base; level < top; ++level) {
      down(queue, kName, level_of(filtered, level), kChannelAxis, level_of(filtered, level + 1));
    }
    e = &level_of(filtered, top);
    pending = -options.alphas.back();
    for (int level = top - 1; level >= base; --level) {
      const auto band = static_cast<std::size_t>(level - base);
      const double finer = band == 0 ? 0.0 : options.alphas[band - 1];
      const View& target = level_of(amplified, level);
      up(queue, kName, *e, kChannelAxis, target,
         {.other = &level_of(filtered, level),
          .other_weight = options.alphas[band] - finer,
          .up_weight = pending});
      e = &target;
      pending = 1.0;
    }
  }
  if (options.channels == 3 && options.chroma != 1.0) {
    const int64_t pixels = e->shape.count() / 3;
    launch(queue, {blocks_for(pixels, kThreads), kThreads}, &attenuate_chroma_kernel,
           e->as<float>(), pixels, static_cast<float>(options.chroma));
  }
  for (int level = base - 1; level >= 1; --level) {
    up(queue, kName, *e, kChannelAxis, level_of(amplified, level));
    e = &level_of(amplified, level);
  }
  up(queue, kName, *e, kChannelAxis, out, {.other = &frames, .up_weight = pending, .clip = true});
}

}  // namespace marey::cuda
