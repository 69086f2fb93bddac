#include "ops/pyramid/steerable.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "core/parallel.h"

namespace marey {

MAREY_STUB_NO_BF16(select_steerable_f32, SelectSteerable<float>)
MAREY_STUB_NO_BF16(select_steerable_f64, SelectSteerable<double>)

namespace {

// What lies between the two passes over a group of sub-bands.
constexpr int64_t kBetweenBytes = int64_t{9} << 20;

template <class T>
SteerableKernel<T> kernel_of();
template <>
SteerableKernel<float> kernel_of<float>() {
  return select_steerable_f32_stub.get()();
}
template <>
SteerableKernel<double> kernel_of<double>() {
  return select_steerable_f64_stub.get()();
}

// Columns of a mask, the last strip filled up with zeros.
int64_t mask_columns(int64_t width) { return (width / 2 + kMaskStrip) / kMaskStrip * kMaskStrip; }

int64_t groups_of(int64_t width, int64_t lanes) { return (width / 2 + lanes) / lanes; }

int64_t signed_frequency(int64_t j, int64_t n) { return j < (n + 1) / 2 ? j : j - n; }

// lo_0 .. lo_{count-1} hi_last at log2 r; hi left out where `last` < 0.
class Radial {
 public:
  explicit Radial(const SteerableOptions& options)
      : step_(1.0 / options.scales_per_octave), transition_((1.0 + step_) / 2.0) {}
  double high(int j, double log_r) const { return std::sin(turn(j, log_r)); }
  double lows(int count, double log_r) const {
    double product = 1.0;
    for (int j = 0; j < count; ++j) product *= std::cos(turn(j, log_r));
    return product;
  }

 private:
  double turn(int j, double log_r) const {
    const double t = (log_r + j * step_ + transition_) / transition_;
    return 0.5 * std::numbers::pi * std::clamp(t, 0.0, 1.0);
  }
  double step_;
  double transition_;
};

// f(position in a mask, fy, fx, log2 r) for the half-plane of a grid; frequencies in units of the
// image's Nyquist.
template <class F>
void for_each_frequency(const Extent& image, const Extent& grid, F&& f) {
  parallel_for(grid.height, 8, 0, [&](int64_t begin, int64_t end, std::byte*) {
    for (int64_t j = begin; j < end; ++j) {
      const double fy = 2.0 * static_cast<double>(signed_frequency(j, grid.height)) /
                        static_cast<double>(image.height);
      for (int64_t m = 0; m <= grid.width / 2; ++m) {
        const double fx = 2.0 * static_cast<double>(m) / static_cast<double>(image.width);
        f((m / kMaskStrip * grid.height + j) * kMaskStrip + m % kMaskStrip, fy, fx,
          0.5 * std::log2(fy * fy + fx * fx));  // -inf at zero
      }
    }
  });
}

double power(double x, int n) {
  double result = 1.0;
  for (; n > 0; --n) result *= x;
  return result;
}

}  // namespace

template <class T>
Steerable<T>::Steerable(const SteerableOptions& options) : options_(options) {
  const Extent image{options.height, options.width};
  const Radial radial(options);
  const int count = scales();
  for (int octave = 0; octave <= options.octaves; ++octave) {
    const Extent last =
        octave == 0 ? Extent{2 * image.height, 2 * image.width} : grids_.back()->extent;
    grids_.push_back(std::make_unique<Grid>(Extent{half(last.height), half(last.width)}));
  }

  // sum over k of cos(theta - pi k / K)^(2 order) = K (2 order)! / (2^order order!)^2
  const int order = options.orientations - 1;
  double norm = 1.0 / options.orientations;
  for (int j = 1; j <= order; ++j) norm *= 2.0 * j / (2.0 * j - 1.0);
  // (-i)^order: its sign here, and -i in the kernel if the order is odd.
  const double sign = order % 4 >= 2 ? -1.0 : 1.0;
  for (int scale = 0; scale < count; ++scale) {
    const Grid& grid = *grids_[static_cast<std::size_t>(scale / options.scales_per_octave)];
    const int64_t plane = grid.extent.height * mask_columns(grid.extent.width);
    Scale& made = scales_.emplace_back(Scale{&grid, {}, {}});
    made.masks.resize(static_cast<std::size_t>(options.orientations * 2 * plane));
    const double weight = 2.0 * std::sqrt(norm) * sign / static_cast<double>(grid.extent.pixels());
    for_each_frequency(image, grid.extent, [&](int64_t at, double fy, double fx, double log_r) {
      const double r = weight * radial.lows(scale + 1, log_r) * radial.high(scale + 1, log_r);
      if (r == 0.0) return;
      const double distance = std::hypot(fx, fy);
      for (int k = 0; k < options.orientations; ++k) {
        const double angle = std::numbers::pi * k / options.orientations;
        for (int side = 0; side < 2; ++side) {
          const double x = side == 0 ? fx : -fx;
          const double cosine = (x * std::cos(angle) + fy * std::sin(angle)) / distance;
          double value = cosine > 0.0 ? r * power(cosine, order) : 0.0;
          // With one orientation both halves of the plane meet on this line.
          if (order == 0 && cosine == 0.0) value = r / 2.0;
          made.masks[static_cast<std::size_t>((2 * k + side) * plane + at)] = static_cast<T>(value);
        }
      }
    });
    const int64_t strip = grid.extent.height * kMaskStrip;
    for (auto from = made.masks.begin(); from != made.masks.end(); from += strip) {
      made.empty.push_back(std::all_of(from, from + strip, [](T m) { return m == T(0); }) ? 1 : 0);
    }
  }

  const auto fill = [&](std::vector<T>& mask, const Extent& extent, auto&& value) {
    mask.resize(static_cast<std::size_t>(extent.height * mask_columns(extent.width)));
    for_each_frequency(image, extent, [&](int64_t at, double, double, double log_r) {
      mask[static_cast<std::size_t>(at)] = static_cast<T>(value(log_r));
    });
  };
  fill(highpass_, image, [&](double log_r) { return radial.high(0, log_r); });
  fill(lowpass_, grids_.back()->extent,
       [&](double log_r) { return radial.lows(count + 1, log_r); });
  fill(residuals_, image, [&](double log_r) {
    return power(radial.high(0, log_r), 2) + power(radial.lows(count + 1, log_r), 2);
  });
}

template <class T>
Extent Steerable<T>::extent(int scale) const {
  return scale == scales() ? grids_.back()->extent
                           : scales_[static_cast<std::size_t>(scale)].grid->extent;
}

template <class T>
int64_t Steerable<T>::table_bytes() const {
  std::size_t items = highpass_.size() + lowpass_.size() + residuals_.size();
  for (const Scale& scale : scales_) items += scale.masks.size();
  return static_cast<int64_t>(items * sizeof(T));
}

template <class T>
int64_t Steerable<T>::groups(int64_t width) const {
  return groups_of(width, kernel_of<T>().lanes);
}

template <class T>
int64_t Steerable<T>::plane_items(const Grid& grid) const {
  return grid.extent.height * groups(grid.extent.width) * 2 * kernel_of<T>().lanes;
}

template <class T>
int Steerable<T>::bands_at_once(int scale) const {
  // Room for the widest vectors, so that the number does not depend on the instruction set.
  const Extent e = extent(scale);
  const int64_t bytes = 4 * e.height * mask_columns(e.width) * static_cast<int64_t>(sizeof(T));
  return static_cast<int>(std::clamp<int64_t>(kBetweenBytes / bytes, 1, options_.orientations));
}

template <class T>
typename Steerable<T>::Workspace Steerable<T>::workspace() const {
  const Grid& finest = *grids_[0];
  int64_t items = plane_items(finest);
  for (int scale = 0; scale < scales(); ++scale) {
    const Grid& grid = *scales_[static_cast<std::size_t>(scale)].grid;
    items = std::max(items, 2 * bands_at_once(scale) * plane_items(grid));
  }
  Workspace made;
  made.spectrum = Buffer(plane_items(finest) * static_cast<int64_t>(sizeof(T)));
  made.planes = Buffer(items * static_cast<int64_t>(sizeof(T)));
  return made;
}

template <class T>
const T* Steerable<T>::mask(int scale, int band, bool negative) const {
  const Scale& s = scales_[static_cast<std::size_t>(scale)];
  const int64_t plane = s.grid->extent.height * mask_columns(s.grid->extent.width);
  return s.masks.data() + (2 * band + (negative ? 1 : 0)) * plane;
}

template <class T>
bool Steerable<T>::is_empty(int scale, int band, bool negative, int64_t column) const {
  const Scale& s = scales_[static_cast<std::size_t>(scale)];
  const int64_t strips = mask_columns(s.grid->extent.width) / kMaskStrip;
  const int64_t at = (2 * band + (negative ? 1 : 0)) * strips + column / kMaskStrip;
  return s.empty[static_cast<std::size_t>(at)] != 0;
}

template <class T>
SteerableRows<T> Steerable<T>::rows_of(const Grid& grid, T* plane, T* negative) const {
  const int64_t g = groups(grid.extent.width);
  const int64_t h = grid.extent.height;
  return {{plane, g, h}, {negative, g, h}, &grid.rows.table(), h, grid.extent.width};
}

template <class T>
SteerableColumns<T> Steerable<T>::columns_of(const Workspace& workspace, const Grid& grid,
                                             T* plane) const {
  return {
      {reinterpret_cast<T*>(workspace.spectrum.data()), groups(options_.width), options_.height},
      {plane, groups(grid.extent.width), grid.extent.height},
      &grid.columns.table(),
      grid.extent.height,
      nullptr,
      nullptr,
      T(1)};
}

template <class T>
void Steerable<T>::analyse(Workspace& workspace, const Plane& image, DType dtype) const {
  const SteerableKernel<T> kernel = kernel_of<T>();
  const Grid& grid = *grids_[0];
  T* spectrum = reinterpret_cast<T*>(workspace.spectrum.data());
  const SteerableRows<T> rows = rows_of(grid, spectrum, nullptr);
  const SteerableColumns<T> columns = columns_of(workspace, grid, spectrum);
  parallel_for((grid.extent.height + 2 * kernel.lanes - 1) / (2 * kernel.lanes), 1,
               static_cast<std::size_t>(kernel.rows_scratch_bytes(*rows.fft)),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t u = begin; u < end; ++u) {
                   kernel.forward_rows(rows, image, dtype, u, scratch);
                 }
               });
  parallel_for(columns.plane.groups, 1,
               static_cast<std::size_t>(kernel.columns_scratch_bytes(*columns.fft)),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t g = begin; g < end; ++g) kernel.forward_columns(columns, g, scratch);
               });
}

template <class T>
void Steerable<T>::take_real(Workspace& workspace, const Grid& grid, const std::vector<T>& mask,
                             const Plane& out) const {
  const SteerableKernel<T> kernel = kernel_of<T>();
  T* plane = reinterpret_cast<T*>(workspace.planes.data());
  const SteerableRows<T> rows = rows_of(grid, plane, nullptr);
  SteerableColumns<T> columns = columns_of(workspace, grid, plane);
  columns.mask = mask.empty() ? nullptr : mask.data();
  columns.weight = T(1.0 / static_cast<double>(grid.extent.pixels()));
  parallel_for(columns.plane.groups, 1,
               static_cast<std::size_t>(kernel.columns_scratch_bytes(*columns.fft)),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t g = begin; g < end; ++g) kernel.inverse_columns(columns, g, scratch);
               });
  parallel_for((grid.extent.height + 2 * kernel.lanes - 1) / (2 * kernel.lanes), 1,
               static_cast<std::size_t>(kernel.rows_scratch_bytes(*rows.fft)),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t u = begin; u < end; ++u) {
                   kernel.inverse_real_rows(rows, out, u, scratch);
                 }
               });
}

template <class T>
void Steerable<T>::highpass(Workspace& workspace, const Plane& out) const {
  take_real(workspace, *grids_[0], highpass_, out);
}

template <class T>
void Steerable<T>::lowpass(Workspace& workspace, const Plane& out) const {
  take_real(workspace, *grids_.back(), lowpass_, out);
}

template <class T>
void Steerable<T>::synthesise(Workspace& workspace, const Plane& out) const {
  take_real(workspace, *grids_[0], {}, out);
}

template <class T>
void Steerable<T>::bands(Workspace& workspace, int scale, int first, int count,
                         std::complex<T>* const* out) const {
  const SteerableKernel<T> kernel = kernel_of<T>();
  const Grid& grid = *scales_[static_cast<std::size_t>(scale)].grid;
  const int64_t items = plane_items(grid);
  T* planes = reinterpret_cast<T*>(workspace.planes.data());
  const bool odd = options_.orientations % 2 == 0;
  const int64_t g = groups(grid.extent.width);
  parallel_for(2 * count * g, 1,
               static_cast<std::size_t>(kernel.columns_scratch_bytes(grid.columns.table())),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t u = begin; u < end; ++u) {
                   const int64_t half_plane = u / g;
                   const auto band = first + static_cast<int>(half_plane / 2);
                   SteerableColumns<T> args =
                       columns_of(workspace, grid, planes + half_plane * items);
                   const bool negative = half_plane % 2 == 1;
                   if (is_empty(scale, band, negative, u % g * kernel.lanes)) {
                     const int64_t group = 2 * kernel.lanes * grid.extent.height;
                     std::fill_n(args.plane.data + u % g * group, group, T(0));
                     continue;
                   }
                   args.mask = mask(scale, band, false);
                   args.negative_mask = mask(scale, band, true);
                   kernel.inverse_band_columns(args, odd, negative, u % g, scratch);
                 }
               });
  const int64_t units = (grid.extent.height + kernel.lanes - 1) / kernel.lanes;
  parallel_for(count * units, 1,
               static_cast<std::size_t>(kernel.rows_scratch_bytes(grid.rows.table())),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t u = begin; u < end; ++u) {
                   T* plane = planes + u / units * 2 * items;
                   kernel.inverse_complex_rows(rows_of(grid, plane, plane + items), out[u / units],
                                               u % units, scratch);
                 }
               });
}

template <class T>
void Steerable<T>::clear(Workspace& workspace) const {
  std::memset(workspace.spectrum.data(), 0, static_cast<std::size_t>(workspace.spectrum.bytes()));
}

template <class T>
void Steerable<T>::keep_residuals(Workspace& workspace, bool less_one) const {
  const int64_t lanes = kernel_of<T>().lanes;
  const int64_t h = options_.height;
  T* spectrum = reinterpret_cast<T*>(workspace.spectrum.data());
  const T less = less_one ? T(1) : T(0);
  parallel_for(groups(options_.width), 4, 0, [&](int64_t begin, int64_t end, std::byte*) {
    for (int64_t g = begin; g < end; ++g) {
      const int64_t column = g * lanes;
      const T* strip =
          residuals_.data() + column / kMaskStrip * h * kMaskStrip + column % kMaskStrip;
      for (int64_t y = 0; y < h; ++y) {
        T* p = spectrum + (g * h + y) * 2 * lanes;
        const T* m = strip + y * kMaskStrip;
        for (int64_t l = 0; l < lanes; ++l) {
          p[l] *= m[l] - less;
          p[l + lanes] *= m[l] - less;
        }
      }
    }
  });
}

template <class T>
void Steerable<T>::add_real(Workspace& workspace, const Grid& grid, const std::vector<T>& mask,
                            const Plane& image) const {
  const SteerableKernel<T> kernel = kernel_of<T>();
  T* plane = reinterpret_cast<T*>(workspace.planes.data());
  const SteerableRows<T> rows = rows_of(grid, plane, nullptr);
  SteerableColumns<T> columns = columns_of(workspace, grid, plane);
  columns.mask = mask.data();
  const DType dtype = sizeof(T) == 4 ? DType::f32 : DType::f64;
  parallel_for((grid.extent.height + 2 * kernel.lanes - 1) / (2 * kernel.lanes), 1,
               static_cast<std::size_t>(kernel.rows_scratch_bytes(*rows.fft)),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t u = begin; u < end; ++u) {
                   kernel.forward_rows(rows, image, dtype, u, scratch);
                 }
               });
  parallel_for(columns.plane.groups, 1,
               static_cast<std::size_t>(kernel.columns_scratch_bytes(*columns.fft)),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t g = begin; g < end; ++g) kernel.add_columns(columns, g, scratch);
               });
}

template <class T>
void Steerable<T>::add_highpass(Workspace& workspace, const Plane& plane) const {
  add_real(workspace, *grids_[0], highpass_, plane);
}

template <class T>
void Steerable<T>::add_lowpass(Workspace& workspace, const Plane& plane) const {
  add_real(workspace, *grids_.back(), lowpass_, plane);
}

template <class T>
void Steerable<T>::add_bands(Workspace& workspace, int scale, int first, int count,
                             const Plane* images) const {
  const SteerableKernel<T> kernel = kernel_of<T>();
  const Grid& grid = *scales_[static_cast<std::size_t>(scale)].grid;
  const int64_t items = plane_items(grid);
  T* planes = reinterpret_cast<T*>(workspace.planes.data());
  const bool odd = options_.orientations % 2 == 0;
  const DType dtype = sizeof(T) == 4 ? DType::f32 : DType::f64;
  const int64_t units = (grid.extent.height + 2 * kernel.lanes - 1) / (2 * kernel.lanes);
  parallel_for(count * units, 1,
               static_cast<std::size_t>(kernel.rows_scratch_bytes(grid.rows.table())),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t u = begin; u < end; ++u) {
                   kernel.forward_rows(rows_of(grid, planes + u / units * items, nullptr),
                                       images[u / units], dtype, u % units, scratch);
                 }
               });
  // A thread has a group of columns to itself, and adds all sub-bands to it.
  parallel_for(groups(grid.extent.width), 1,
               static_cast<std::size_t>(kernel.columns_scratch_bytes(grid.columns.table())),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t g = begin; g < end; ++g) {
                   for (int k = 0; k < count; ++k) {
                     SteerableColumns<T> args = columns_of(workspace, grid, planes + k * items);
                     args.mask = mask(scale, first + k, false);
                     args.negative_mask = mask(scale, first + k, true);
                     // The masks hold 2 / pixels for the inverse.
                     args.weight = T(0.5 * static_cast<double>(grid.extent.pixels()));
                     kernel.add_band_columns(args, odd, g, scratch);
                   }
                 }
               });
}

template class Steerable<float>;
template class Steerable<double>;

}  // namespace marey
