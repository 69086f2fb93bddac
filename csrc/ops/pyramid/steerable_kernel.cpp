// Every pass takes as many rows or columns side by side as a vector has lanes (rows of real images
// two for each lane, as real and imaginary part of one line), so the transform itself shuffles
// nothing; a pass over rows transposes in registers where it reads and writes. Masks are applied
// while a column's input is loaded or its result is added: no masked spectrum is ever stored.
#include "core/fft_lanes.h"
#include "ops/pyramid/row_buffers.h"
#include "ops/pyramid/steerable.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class T>
inline T* block(const HalfPlane<T>& plane, int64_t row, int64_t group) {
  return plane.data + (group * plane.height + row) * 2 * kLanesOf<T>;
}

// Where frequency j of a grid of n lies in one of `full` >= n; with `mirrored`, frequency -j.
inline int64_t frequency_row(int64_t j, int64_t n, int64_t full, bool mirrored) {
  const int64_t signed_j = j < (n + 1) / 2 ? j : j - n;
  const int64_t wanted = mirrored ? -signed_j : signed_j;
  return wanted < 0 ? wanted + full : wanted;
}

template <class T>
struct Kernel {
  using V = Vec<T>;
  static constexpr int64_t kLanes = kLanesOf<T>;

  static int64_t line_items(const FftTable<T>& fft) { return 2 * kLanes * (fft.length + kLanes); }
  static int64_t scratch_items(const FftTable<T>& fft) {
    return 2 * kLanes * (fft_scratch_length(fft) + kLanes);
  }
  static int64_t rows_scratch_bytes(const FftTable<T>& fft) {
    return Arena::bytes<T>(line_items(fft)) + Arena::bytes<T>(scratch_items(fft)) +
           2 * kLanes * Arena::bytes<T>(fft.length + kLanes);
  }
  static int64_t columns_scratch_bytes(const FftTable<T>& fft) {
    return Arena::bytes<T>(line_items(fft)) + Arena::bytes<T>(scratch_items(fft));
  }

  // The transform of a column. Its input is put down in order first: a transform asks for it in
  // leaps, which memory beyond the second-level cache answers slowly.
  template <class Load>
  static const T* column(const FftTable<T>& table, std::byte* scratch, Load&& load) {
    Arena arena(scratch);
    T* lines = arena.take<T>(line_items(table));
    T* work = arena.take<T>(scratch_items(table));
    for (int64_t j = 0; j < table.length; ++j) store_complex<T>(lines, j, load(j));
    return fft(table, work, lines);
  }

  template <class S>
  static const T* contiguous_row(const Plane& image, int64_t y, T* kept) {
    const std::byte* row = image.data + y * image.row_stride;
    if (image.pixel_stride == static_cast<int64_t>(sizeof(S))) {
      const S* items = reinterpret_cast<const S*>(row);
      if constexpr (std::is_same_v<S, T>) {
        return items;
      } else {
        for (int64_t x = 0; x < image.width; ++x) kept[x] = static_cast<T>(items[x]);
      }
    } else if (image.pixel_stride == 2 * static_cast<int64_t>(sizeof(S))) {
      const S* items = reinterpret_cast<const S*>(row);  // the real parts of complex items
      for (int64_t x = 0; x < image.width; ++x) kept[x] = static_cast<T>(items[2 * x]);
    } else {
      for (int64_t x = 0; x < image.width; ++x) {
        kept[x] = static_cast<T>(*reinterpret_cast<const S*>(row + x * image.pixel_stride));
      }
    }
    return kept;
  }

  static const T* row_of(const Plane& image, DType dtype, int64_t y, T* kept) {
    switch (dtype) {
      case DType::u8:
        return contiguous_row<uint8_t>(image, y, kept);
      case DType::f32:
        return contiguous_row<float>(image, y, kept);
      case DType::f64:
        return contiguous_row<double>(image, y, kept);
      case DType::bf16:
        break;
    }
    return nullptr;
  }

  static void forward_rows(const SteerableRows<T>& args, const Plane& image, DType dtype,
                           int64_t unit, std::byte* scratch) {
    Arena arena(scratch);
    T* lines = arena.take<T>(line_items(*args.fft));
    T* work = arena.take<T>(scratch_items(*args.fft));
    const int64_t w = args.width;
    const int64_t first = unit * 2 * kLanes;
    const int64_t count = std::min(2 * kLanes, args.height - first);

    // Line l: row l as real part, row kLanes + l as imaginary part.
    const T* rows[2 * kLanes];
    for (int64_t l = 0; l < 2 * kLanes; ++l) {
      T* kept = arena.take<T>(w + kLanes);
      rows[l] = l < count ? row_of(image, dtype, first + l, kept) : nullptr;
    }
    V tile[kLanes];
    for (int64_t part = 0; part < 2; ++part) {
      for (int64_t x = 0; x < w; x += kLanes) {
        for (int64_t l = 0; l < kLanes; ++l) {
          const T* row = rows[part * kLanes + l];
          if (row == nullptr) {
            tile[l] = V(T(0));
          } else {
            tile[l] = x + kLanes <= w ? load<V>(row + x) : load_partial<V>(row + x, w - x);
          }
        }
        transpose<T>(tile);
        for (int64_t l = 0; l < kLanes; ++l) {
          store(lines + 2 * kLanes * (x + l) + part * kLanes, tile[l]);
        }
      }
    }
    const T* z = fft(*args.fft, work, lines);

    // Z(k) = A(k) + i B(k), with A and B Hermitian: A(k) = (Z(k) + conj Z(-k)) / 2.
    const T half_of = T(0.5);
    for (int64_t g = 0; g < args.plane.groups; ++g) {
      V parts[4][kLanes];  // re A, im A, re B, im B
      for (int64_t l = 0; l < kLanes; ++l) {
        const int64_t k = g * kLanes + l;
        if (k > w / 2) {
          for (auto& part : parts) part[l] = V(T(0));
          continue;
        }
        const Complex<T> a = load_complex(z, k);
        const Complex<T> b = load_complex(z, k == 0 ? 0 : w - k);
        parts[0][l] = half_of * (a.re + b.re);
        parts[1][l] = half_of * (a.im - b.im);
        parts[2][l] = half_of * (a.im + b.im);
        parts[3][l] = half_of * (b.re - a.re);
      }
      for (auto& part : parts) transpose<T>(part);
      for (int64_t l = 0; l < count; ++l) {
        const int64_t lane = l % kLanes;
        const int64_t part = l < kLanes ? 0 : 2;
        T* p = block(args.plane, first + l, g);
        store(p, parts[part][lane]);
        store(p + kLanes, parts[part + 1][lane]);
      }
    }
  }

  static void inverse_real_rows(const SteerableRows<T>& args, const Plane& image, int64_t unit,
                                std::byte* scratch) {
    Arena arena(scratch);
    T* lines = arena.take<T>(line_items(*args.fft));
    T* work = arena.take<T>(scratch_items(*args.fft));
    const int64_t w = args.width;
    const int64_t first = unit * 2 * kLanes;
    const int64_t count = std::min(2 * kLanes, args.height - first);
    for (int64_t g = 0; g < args.plane.groups; ++g) {
      V parts[4][kLanes];
      for (int64_t l = 0; l < 2 * kLanes; ++l) {
        const int64_t part = l < kLanes ? 0 : 2;
        const T* p = block(args.plane, first + (l < count ? l : 0), g);
        parts[part][l % kLanes] = l < count ? load<V>(p) : V(T(0));
        parts[part + 1][l % kLanes] = l < count ? load<V>(p + kLanes) : V(T(0));
      }
      for (auto& part : parts) transpose<T>(part);
      for (int64_t l = 0; l < kLanes; ++l) {
        const int64_t k = g * kLanes + l;
        if (k > w / 2) break;
        const V ar = parts[0][l];
        const V ai = parts[1][l];
        const V br = parts[2][l];
        const V bi = parts[3][l];
        // Swapped, for the inverse. Where k is its own mirror image the spectrum is real but for
        // rounding.
        if (k != 0 && 2 * k != w) store_complex<T>(lines, w - k, {br - ai, ar + bi});
        store_complex<T>(lines, k, {ai + br, ar - bi});
      }
    }
    const T* z = fft(*args.fft, work, lines);
    V tile[kLanes];
    for (int64_t part = 0; part < 2; ++part) {
      const int64_t lines_used = std::clamp<int64_t>(count - part * kLanes, 0, kLanes);
      if (lines_used == 0) break;
      for (int64_t x = 0; x < w; x += kLanes) {
        const int64_t n = std::min(kLanes, w - x);
        for (int64_t l = 0; l < kLanes; ++l) {
          // Swapped back: the real part stands second.
          tile[l] = l < n ? load<V>(z + 2 * kLanes * (x + l) + (1 - part) * kLanes) : V(T(0));
        }
        transpose<T>(tile);
        for (int64_t l = 0; l < lines_used; ++l) {
          T* row =
              reinterpret_cast<T*>(image.data + (first + part * kLanes + l) * image.row_stride);
          if (n == kLanes) {
            store(row + x, tile[l]);
          } else {
            store_partial(row + x, tile[l], n);
          }
        }
      }
    }
  }

  static void inverse_complex_rows(const SteerableRows<T>& args, std::complex<T>* image,
                                   int64_t unit, std::byte* scratch) {
    Arena arena(scratch);
    T* lines = arena.take<T>(line_items(*args.fft));
    T* work = arena.take<T>(scratch_items(*args.fft));
    const int64_t w = args.width;
    const int64_t first = unit * kLanes;
    const int64_t count = std::min(kLanes, args.height - first);
    const auto gather = [&](const HalfPlane<T>& plane, int64_t from, int64_t to, auto&& place) {
      for (int64_t g = 0; g < plane.groups; ++g) {
        V re[kLanes];
        V im[kLanes];
        for (int64_t l = 0; l < kLanes; ++l) {
          const T* p = block(plane, first + (l < count ? l : 0), g);
          re[l] = load<V>(p);
          im[l] = load<V>(p + kLanes);
        }
        transpose<T>(re);
        transpose<T>(im);
        for (int64_t l = 0; l < kLanes; ++l) {
          const int64_t m = g * kLanes + l;
          if (m >= from && m < to) store_complex<T>(lines, place(m), {im[l], re[l]});
        }
      }
    };
    gather(args.negative, 1, (w + 1) / 2, [&](int64_t m) { return w - m; });
    gather(args.plane, 0, w / 2 + 1, [](int64_t m) { return m; });
    const T* z = fft(*args.fft, work, lines);

    // Half a vector of elements at a time: transposed, (re, im) pairs lie as they are stored.
    constexpr int64_t kHalf = kLanes / 2;
    for (int64_t x = 0; x < w; x += kHalf) {
      const int64_t n = std::min(kHalf, w - x);
      V tile[kLanes];
      for (int64_t e = 0; e < kHalf; ++e) {
        const Complex<T> v = load_complex(z, std::min(x + e, w - 1));
        tile[2 * e] = v.im;
        tile[2 * e + 1] = v.re;
      }
      transpose<T>(tile);
      for (int64_t l = 0; l < count; ++l) {
        T* p = reinterpret_cast<T*>(image + (first + l) * w + x);
        if (n == kHalf) {
          store(p, tile[l]);
        } else {
          store_partial(p, tile[l], 2 * n);
        }
      }
    }
  }

  static void forward_columns(const SteerableColumns<T>& args, int64_t g, std::byte* scratch) {
    const T* z = column(*args.fft, scratch,
                        [&](int64_t j) { return load_complex(block(args.plane, j, g), 0); });
    for (int64_t y = 0; y < args.height; ++y) {
      store_complex(block(args.plane, y, g), 0, load_complex(z, y));
    }
  }

  static V mask_at(const T* mask, int64_t height, int64_t j, int64_t g) {
    const int64_t column = g * kLanes;
    return load<V>(mask + (column / kMaskStrip * height + j) * kMaskStrip + column % kMaskStrip);
  }

  template <class Load>
  static void inverse_to_plane(const SteerableColumns<T>& args, int64_t g, std::byte* scratch,
                               Load&& load_swapped) {
    const T* z = column(*args.fft, scratch, load_swapped);
    for (int64_t y = 0; y < args.height; ++y) {
      store_complex(block(args.plane, y, g), 0, swapped(load_complex(z, y)));
    }
  }

  static void inverse_columns(const SteerableColumns<T>& args, int64_t g, std::byte* scratch) {
    inverse_to_plane(args, g, scratch, [&](int64_t j) -> Complex<T> {
      const int64_t row = frequency_row(j, args.height, args.spectrum.height, false);
      const Complex<T> s = load_complex(block(args.spectrum, row, g), 0);
      V m = args.weight;
      if (args.mask != nullptr) m *= mask_at(args.mask, args.height, j, g);
      return {m * s.im, m * s.re};
    });
  }

  template <bool kOdd, bool kNegative>
  static void inverse_band(const SteerableColumns<T>& args, int64_t g, std::byte* scratch) {
    const T* mask = kNegative ? args.negative_mask : args.mask;
    inverse_to_plane(args, g, scratch, [&](int64_t j) -> Complex<T> {
      const int64_t row = frequency_row(j, args.height, args.spectrum.height, kNegative);
      Complex<T> s = load_complex(block(args.spectrum, row, g), 0);
      if constexpr (kNegative) s.im = -s.im;
      const V m = mask_at(mask, args.height, j, g);
      // (s.re + i s.im), times -i if odd, then swapped.
      if constexpr (kOdd) return {-(m * s.re), m * s.im};
      return {m * s.im, m * s.re};
    });
  }

  static void inverse_band_columns(const SteerableColumns<T>& args, bool odd, bool negative,
                                   int64_t g, std::byte* scratch) {
    if (odd) {
      return negative ? inverse_band<true, true>(args, g, scratch)
                      : inverse_band<true, false>(args, g, scratch);
    }
    return negative ? inverse_band<false, true>(args, g, scratch)
                    : inverse_band<false, false>(args, g, scratch);
  }

  static void add_columns(const SteerableColumns<T>& args, int64_t g, std::byte* scratch) {
    const T* z = column(*args.fft, scratch,
                        [&](int64_t j) { return load_complex(block(args.plane, j, g), 0); });
    for (int64_t j = 0; j < args.height; ++j) {
      T* p = block(args.spectrum, frequency_row(j, args.height, args.spectrum.height, false), g);
      const Complex<T> sum = load_complex(p, 0);
      const Complex<T> c = load_complex(z, j);
      const V m = args.weight * mask_at(args.mask, args.height, j, g);
      store_complex<T>(p, 0, {sum.re + m * c.re, sum.im + m * c.im});
    }
  }

  template <bool kOdd>
  static void add_band(const SteerableColumns<T>& args, int64_t g, std::byte* scratch) {
    const T* z = column(*args.fft, scratch,
                        [&](int64_t j) { return load_complex(block(args.plane, j, g), 0); });
    for (int64_t j = 0; j < args.height; ++j) {
      T* p = block(args.spectrum, frequency_row(j, args.height, args.spectrum.height, false), g);
      const Complex<T> sum = load_complex(p, 0);
      const Complex<T> c = load_complex(z, j);
      // The filter of the real parts is two-sided: half of build's mask here, and half of its
      // mirror image, of opposite sign for odd powers of the cosine.
      const V one = mask_at(args.mask, args.height, j, g);
      const V other = mask_at(args.negative_mask, args.height, j == 0 ? 0 : args.height - j, g);
      const V m = args.weight * (kOdd ? one - other : one + other);
      if constexpr (kOdd) {  // times i
        store_complex<T>(p, 0, {sum.re - m * c.im, sum.im + m * c.re});
      } else {
        store_complex<T>(p, 0, {sum.re + m * c.re, sum.im + m * c.im});
      }
    }
  }

  static void add_band_columns(const SteerableColumns<T>& args, bool odd, int64_t g,
                               std::byte* scratch) {
    odd ? add_band<true>(args, g, scratch) : add_band<false>(args, g, scratch);
  }

  static constexpr SteerableKernel<T> kernel{
      kLanes,          rows_scratch_bytes, columns_scratch_bytes,
      forward_rows,    inverse_real_rows,  inverse_complex_rows,
      forward_columns, inverse_columns,    inverse_band_columns,
      add_columns,     add_band_columns};
};

}  // namespace

SteerableKernel<float> select_steerable_f32() { return Kernel<float>::kernel; }
SteerableKernel<double> select_steerable_f64() { return Kernel<double>::kernel; }

}  // namespace marey::MAREY_ISA_NS
