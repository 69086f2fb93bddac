#pragma once
// The complex steerable pyramid (Simoncelli and Freeman 1995; Portilla and Simoncelli 2000), in the
// frequency domain.
//
// With r the frequency's distance from zero (1 at Nyquist along an axis), f the octave fraction, K
// the number of orientations, t_j = clamp((log2 r + j f + w) / w, 0, 1) and w = (1 + f) / 2
// octaves:
//
//   hi_j = sin(pi/2 t_j),  lo_j = cos(pi/2 t_j)
//   highpass residual:      hi_0
//   scale s, orientation k: lo_0 .. lo_s  hi_{s+1}  (-i)^(K-1)  2 a cos(theta - pi k / K)^(K-1)
//                           where the cosine is positive, else 0
//   lowpass residual:       lo_0 .. lo_S
//
// a makes the squares of cos^(K-1) over all k sum to 1, so the squares of everything do. A scale is
// sampled on the grid of its octave, floor(s f): the image's, halved (rounding up) so often.
//
// collapse uses the real parts alone, as Portilla and Simoncelli's code: of what build gives, the
// imaginary parts are their Hilbert transforms.
//
// Spectra of real images are kept as half-planes, kx from 0 to W/2, by groups of one vector of
// columns: group g, row ky: lanes of re, then lanes of im. A pass over columns then reads memory in
// order, a pass over rows in runs of as many rows as it takes at a time. (Row by row, the passes
// over columns waited for memory more than three quarters of their time.) Masks lie likewise, in
// strips of kMaskStrip columns, the widest vector.
#include <complex>
#include <memory>
#include <vector>

#include "core/buffer.h"
#include "core/dispatch.h"
#include "core/fft.h"
#include "core/view.h"
#include "ops/pyramid/plane.h"

namespace marey {

struct SteerableOptions {
  int64_t height = 0;
  int64_t width = 0;
  int orientations = 8;  // 1 or more
  int octaves = 1;
  int scales_per_octave = 1;  // 1 / f
};

struct Extent {
  int64_t height = 0;
  int64_t width = 0;
  int64_t pixels() const { return height * width; }
};

inline constexpr int64_t kMaskStrip = 16;

template <class T>
struct HalfPlane {
  T* data = nullptr;
  int64_t groups = 0;
  int64_t height = 0;
};

// Of all structs below: `height` and `width` are those of the grid transformed to or from.
template <class T>
struct SteerableRows {
  HalfPlane<T> plane;     // kx >= 0
  HalfPlane<T> negative;  // kx = -m in column m; only of complex images
  const FftTable<T>* fft;
  int64_t height;
  int64_t width;
};

template <class T>
struct SteerableColumns {
  HalfPlane<T> spectrum;  // of the whole image
  HalfPlane<T> plane;
  const FftTable<T>* fft;
  int64_t height;
  const T* mask;           // null for none
  const T* negative_mask;  // the same for kx = -m
  T weight;                // times the mask
};

template <class T>
struct SteerableKernel {
  int64_t lanes;
  int64_t (*rows_scratch_bytes)(const FftTable<T>& fft);
  int64_t (*columns_scratch_bytes)(const FftTable<T>& fft);
  // Rows in units of 2 * lanes: a real image (uint8, float32 or float64, converted to T, any
  // strides) to a half-plane.
  void (*forward_rows)(const SteerableRows<T>&, const Plane& image, DType dtype, int64_t unit,
                       std::byte* scratch);
  // The same, backwards.
  void (*inverse_real_rows)(const SteerableRows<T>&, const Plane& image, int64_t unit,
                            std::byte* scratch);
  // Rows in units of `lanes`: both half-planes to a complex image with contiguous rows.
  void (*inverse_complex_rows)(const SteerableRows<T>&, std::complex<T>* image, int64_t unit,
                               std::byte* scratch);
  // Columns in groups. Forward, in place.
  void (*forward_columns)(const SteerableColumns<T>&, int64_t group, std::byte* scratch);
  // plane = inverse transform of weight * mask * spectrum
  void (*inverse_columns)(const SteerableColumns<T>&, int64_t group, std::byte* scratch);
  // The same of one sub-band, for kx >= 0 or kx < 0.
  void (*inverse_band_columns)(const SteerableColumns<T>&, bool odd, bool negative, int64_t group,
                               std::byte* scratch);
  // spectrum += weight * mask * transform of plane
  void (*add_columns)(const SteerableColumns<T>&, int64_t group, std::byte* scratch);
  void (*add_band_columns)(const SteerableColumns<T>&, bool odd, int64_t group, std::byte* scratch);
};

template <class T>
using SelectSteerable = SteerableKernel<T>();
MAREY_DECLARE_KERNEL(select_steerable_f32, SelectSteerable<float>)
MAREY_DECLARE_KERNEL(select_steerable_f64, SelectSteerable<double>)

// Plans and masks; any number of threads may use one. T: float or double.
template <class T>
class Steerable {
 public:
  explicit Steerable(const SteerableOptions& options);

  const SteerableOptions& options() const { return options_; }
  int scales() const { return options_.octaves * options_.scales_per_octave; }
  Extent extent(int scale) const;  // scale == scales(): of the lowpass residual
  // Of the masks.
  int64_t table_bytes() const;

  // What one transform works in. The spectrum is the image's after analyse, and the sum so far of
  // what was added after clear.
  struct Workspace {
    Buffer spectrum;
    Buffer planes;
  };
  Workspace workspace() const;
  // Sub-bands of a scale that are worked on together, so that what lies between their two passes
  // stays in the last-level cache.
  int bands_at_once(int scale) const;

  void analyse(Workspace&, const Plane& image, DType dtype) const;
  void highpass(Workspace&, const Plane& out) const;
  void lowpass(Workspace&, const Plane& out) const;
  // Sub-bands [first, first + count), count <= bands_at_once; each at out[k], contiguous.
  void bands(Workspace&, int scale, int first, int count, std::complex<T>* const* out) const;

  void clear(Workspace&) const;
  // In place, spectrum *= highpass^2 + lowpass^2: analysis and synthesis of both residuals at once.
  // With `less_one`, the difference that this and the missing bands make to the image.
  void keep_residuals(Workspace&, bool less_one) const;
  void add_highpass(Workspace&, const Plane& plane) const;
  void add_lowpass(Workspace&, const Plane& plane) const;
  // The real parts of sub-bands, of type T with any strides.
  void add_bands(Workspace&, int scale, int first, int count, const Plane* planes) const;
  void synthesise(Workspace&, const Plane& out) const;

 private:
  struct Grid {
    explicit Grid(const Extent& e) : extent(e), rows(e.width), columns(e.height) {}
    Extent extent;
    FftPlan<T> rows;
    FftPlan<T> columns;
  };
  struct Scale {
    const Grid* grid;
    // For each strip of each mask, whether all of it is zero.
    std::vector<uint8_t> empty;
    std::vector<T> masks;  // (orientations, 2, strips, height, kMaskStrip)
  };
  const T* mask(int scale, int band, bool negative) const;
  bool is_empty(int scale, int band, bool negative, int64_t column) const;
  SteerableRows<T> rows_of(const Grid& grid, T* plane, T* negative) const;
  SteerableColumns<T> columns_of(const Workspace&, const Grid& grid, T* plane) const;
  int64_t groups(int64_t width) const;
  int64_t plane_items(const Grid& grid) const;
  void add_real(Workspace&, const Grid&, const std::vector<T>& mask, const Plane&) const;
  void take_real(Workspace&, const Grid&, const std::vector<T>& mask, const Plane&) const;

  SteerableOptions options_;
  std::vector<std::unique_ptr<Grid>> grids_;  // one an octave
  std::vector<Scale> scales_;
  std::vector<T> highpass_;   // (strips, height, kMaskStrip)
  std::vector<T> lowpass_;    // on the coarsest grid
  std::vector<T> residuals_;  // highpass^2 + lowpass^2 on the finest
};

extern template class Steerable<float>;
extern template class Steerable<double>;

}  // namespace marey
