// A thread makes 2 kRows results below each other, of one item: it takes the three neighbours of a
// source row once, keeps the sums of the last three rows in registers, and makes an even and an odd
// row of each: one and a half loads a result. What becomes of a result on its way to memory (a
// band, a collapsed level, a magnified frame) is done here too, so that the doubled image is never
// stored.
//
// Even places take 1 6 1 of their neighbours, odd ones 4 4, all divided by 8. To take a neighbour
// with a weight of zero would spread infinities, so an odd place takes its own twice, 1 and 3
// times, which a fused multiply-add makes exactly 4 times.
#include "ops/pyramid/planes_cuda.h"
#include "ops/pyramid/pyramid_cuda.h"

namespace marey::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = 8;

struct UpArguments {
  SeriesMap<3> batch;  // image, out, other
  PlaneGrid grid;
  PlaneShape source, target, other;
  Divisor channels;
  const char* image;
  char* out;
  const char* with;  // other
  float other_weight, up_weight;
  bool clip;
};

MAREY_DEVICE int taps(int a, int b, int c, int wa, int wb, int wc) {
  return wa * a + wb * b + wc * c;
}
MAREY_DEVICE float taps(float a, float b, float c, float wa, float wb, float wc) {
  return fmaf(wc, c, fmaf(wb, b, wa * a));
}
MAREY_DEVICE double taps(double a, double b, double c, double wa, double wb, double wc) {
  return fma(wc, c, fma(wb, b, wa * a));
}

// A sum of 64ths becomes a result.
template <class P, class O, bool kOther, class A>
MAREY_DEVICE O finished(const UpArguments& a, A sum, const char* other) {
  if constexpr (!kOther) {
    if constexpr (sizeof(O) == 1) return static_cast<O>((sum + 32) >> 6);
    return static_cast<O>(sum) * static_cast<O>(1.0 / 64.0);
  } else {
    const A with = static_cast<A>(*reinterpret_cast<const P*>(other));
    A v = static_cast<A>(a.other_weight) * with +
          static_cast<A>(a.up_weight) * (sum * static_cast<A>(1.0 / 64.0));
    if constexpr (sizeof(O) == 1) {
      v = v < A{0} ? A{0} : v > A{255} ? A{255} : v;
      return static_cast<O>(rintf(v));
    }
    if (a.clip) v = v < A{0} ? A{0} : v > A{1} ? A{1} : v;
    return static_cast<O>(v);
  }
}

// S: items of the image, A: sums, P: items of `other`, O: results.
template <class S, class A, class P, class O, bool kOther>
MAREY_KERNEL(kThreads)
up_kernel(MAREY_GRID_CONSTANT UpArguments a) {
  const PlaneGrid::Place place = a.grid.at(blockIdx.x, kThreads);
  const int64_t item = place.first_item + threadIdx.x;
  if (item >= a.target.width * a.target.channels) return;
  const int64_t x = a.channels.quotient(item);
  const int64_t channel = item - x * a.target.channels;
  int64_t offset[3];
  a.batch.offsets(place.plane, offset);

  // A last column 2w repeats column 2w - 1.
  const int64_t width = a.source.width;
  const int64_t at = x < 2 * width ? x : 2 * width - 1;
  const int64_t j = at / 2;
  const bool odd = (at & 1) != 0;
  const char* image = a.image + offset[0] + channel * a.source.channel_stride;
  const int64_t left = (odd ? j : before(j, width)) * a.source.pixel_stride;
  const int64_t middle = j * a.source.pixel_stride;
  const int64_t right = after(j, width) * a.source.pixel_stride;
  const A weight_middle = odd ? A{3} : A{6};
  const A weight_right = odd ? A{4} : A{1};
  const auto row_sum = [&](int64_t i) {
    const char* row = image + i * a.source.row_stride;
    const auto get = [&](int64_t column) {
      return static_cast<A>(*reinterpret_cast<const S*>(row + column));
    };
    return taps(get(left), get(middle), get(right), A{1}, weight_middle, weight_right);
  };

  char* out = a.out + offset[1] + x * a.target.pixel_stride + channel * a.target.channel_stride;
  const char* with =
      kOther ? a.with + offset[2] + x * a.other.pixel_stride + channel * a.other.channel_stride
             : nullptr;
  const auto put = [&](int64_t y, A sum) {
    if (y >= a.target.height) return;
    *reinterpret_cast<O*>(out + y * a.target.row_stride) =
        finished<P, O, kOther>(a, sum, kOther ? with + y * a.other.row_stride : nullptr);
  };

  const int64_t height = a.source.height;
  const int64_t begin = place.row_block * kRows;
  const int64_t end = begin + kRows < height ? begin + kRows : height;
  A above = row_sum(before(begin, height));
  A here = row_sum(begin);
  for (int64_t i = begin; i < end; ++i) {
    const A below = row_sum(after(i, height));
    const A even = taps(above, here, below, A{1}, A{6}, A{1});
    put(2 * i, even);
    put(2 * i + 1, taps(here, here, below, A{1}, A{3}, A{4}));
    // A last row 2h repeats row 2h - 2.
    if (i == height - 1) put(2 * height, even);
    above = here;
    here = below;
  }
}

}  // namespace

void up(const Queue& queue, std::string_view function, const View& image,
        std::optional<int> channel_axis, const View& out, const UpEpilogue& epilogue) {
  const ImageAxes axes = image_axes(function, "image", image.shape, channel_axis);
  if (out.shape.count() == 0) return;
  UpArguments a{};
  const View* const views[3] = {&image, &out, epilogue.other};
  a.batch = batch_map<3>(views, axes);
  a.source = plane_shape(image, axes);
  a.target = plane_shape(out, axes);
  a.channels = Divisor(a.target.channels);
  a.image = image.as<const char>();
  a.out = out.as<char>();
  if (epilogue.other != nullptr) {
    a.other = plane_shape(*epilogue.other, axes);
    a.with = epilogue.other->as<const char>();
  }
  a.other_weight = static_cast<float>(epilogue.other_weight);
  a.up_weight = static_cast<float>(epilogue.up_weight);
  a.clip = epilogue.clip;
  a.grid.columns = Divisor(blocks_for(a.target.width * a.target.channels, kThreads));
  a.grid.rows = Divisor(blocks_for(a.source.height, kRows));
  const Grid grid{a.batch.count * a.grid.rows.value() * a.grid.columns.value(), kThreads};
  if (epilogue.other == nullptr) {
    if (image.dtype == DType::u8) {
      return launch(queue, grid, &up_kernel<uint8_t, int, uint8_t, uint8_t, false>, a);
    }
    if (image.dtype == DType::f32) {
      return launch(queue, grid, &up_kernel<float, float, float, float, false>, a);
    }
    return launch(queue, grid, &up_kernel<double, double, double, double, false>, a);
  }
  const DType other = epilogue.other->dtype;
  if (out.dtype == DType::u8) {
    return launch(queue, grid, &up_kernel<float, float, uint8_t, uint8_t, true>, a);
  }
  if (other == DType::u8) {
    return launch(queue, grid, &up_kernel<float, float, uint8_t, float, true>, a);
  }
  if (image.dtype == DType::f32) {
    return launch(queue, grid, &up_kernel<float, float, float, float, true>, a);
  }
  launch(queue, grid, &up_kernel<double, double, double, double, true>, a);
}

void laplacian(const Queue& queue, std::string_view function, const View& image,
               std::optional<int> channel_axis, const std::vector<View>& out,
               const std::vector<View>& coarse) {
  const std::size_t levels = out.size() - 1;
  for (std::size_t level = 0; level < levels; ++level) {
    const View& fine = level == 0 ? image : coarse[level - 1];
    const View& half = level + 1 == levels ? out[levels] : coarse[level];
    down(queue, function, fine, channel_axis, half);
    up(queue, function, half, channel_axis, out[level], {.other = &fine, .up_weight = -1.0});
  }
}

void collapse(const Queue& queue, std::string_view function, const std::vector<View>& bands,
              std::optional<int> channel_axis, const std::vector<View>& between, const View& out) {
  const std::size_t levels = bands.size() - 1;
  const View* current = &bands[levels];
  for (std::size_t level = levels; level-- > 0;) {
    const View& target = level == 0 ? out : between[level - 1];
    up(queue, function, *current, channel_axis, target, {.other = &bands[level]});
    current = &target;
  }
}

}  // namespace marey::cuda
