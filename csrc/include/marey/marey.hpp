// marey for C++17: the functions of marey.h with arrays and exceptions.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "marey/marey.h"

// The library has names of its own in this namespace, and what a compiler does not inline is a
// symbol: the inline namespace keeps them apart.
namespace marey {
inline namespace api {

// Thrown by every function below; what() is "[marey.down] image: expected ...; found ...".
class Error : public std::runtime_error {
 public:
  Error(marey_status status, const char* text) : std::runtime_error(text), status_(status) {}
  marey_status status() const { return status_; }

 private:
  marey_status status_;
};

// An array in memory that somebody else owns: uint8, float32, float64; C-ordered unless strides (in
// bytes) are set. Read-only memory may be passed where a function reads.
class Array {
 public:
  template <class T>
  Array(T* data, std::initializer_list<int64_t> shape) : Array(data, std::vector<int64_t>(shape)) {}

  template <class T>
  Array(T* data, const std::vector<int64_t>& shape)
      : Array(const_cast<std::remove_const_t<T>*>(data), dtype_of<std::remove_const_t<T>>(),
              shape) {}

  // For bfloat16, or where the type is known only at run time.
  Array(void* data, marey_dtype dtype, const std::vector<int64_t>& shape)
      : array_(marey_array_of(data, dtype, checked_ndim(shape), shape.data())) {}

  int64_t& stride(int axis) { return array_.strides[axis]; }
  int64_t shape(int axis) const { return array_.shape[axis]; }
  int ndim() const { return array_.ndim; }
  const marey_array& get() const { return array_; }

 private:
  template <class T>
  static constexpr marey_dtype dtype_of() {
    static_assert(
        std::is_same_v<T, uint8_t> || std::is_same_v<T, float> || std::is_same_v<T, double>,
        "arrays are uint8_t, float or double; give bfloat16 as void*");
    return std::is_same_v<T, uint8_t> ? MAREY_UINT8
           : std::is_same_v<T, float> ? MAREY_FLOAT32
                                      : MAREY_FLOAT64;
  }
  static int32_t checked_ndim(const std::vector<int64_t>& shape) {
    if (shape.size() > MAREY_MAX_DIMS) {
      throw Error(MAREY_VALUE_ERROR, "[marey.Array] shape: expected at most 16 axes");
    }
    return static_cast<int32_t>(shape.size());
  }

  marey_array array_;
};

namespace detail {
inline void check(marey_status status) {
  if (status != MAREY_OK) throw Error(status, marey_last_error());
}
inline const marey_array* pointer(const Array* array) {
  return array == nullptr ? nullptr : &array->get();
}
inline std::vector<marey_array> plain(const std::vector<Array>& arrays) {
  std::vector<marey_array> result;
  for (const Array& array : arrays) result.push_back(array.get());
  return result;
}
}  // namespace detail

inline std::string isa() { return marey_isa(); }
inline void set_isa(const std::string& name) { detail::check(marey_set_isa(name.c_str())); }
inline int threads() { return marey_num_threads(); }
inline void set_threads(int count) { marey_set_num_threads(count); }

// Pyramids. channel_axis: as in marey.h.
inline void down(const Array& image, const Array& out, int channel_axis = MAREY_NO_CHANNELS) {
  detail::check(marey_down(&image.get(), channel_axis, &out.get()));
}
inline void up(const Array& image, const Array& out, int channel_axis = MAREY_NO_CHANNELS) {
  detail::check(marey_up(&image.get(), channel_axis, &out.get()));
}
inline void down_adjoint(const Array& grad, const Array& out,
                         int channel_axis = MAREY_NO_CHANNELS) {
  detail::check(marey_down_adjoint(&grad.get(), channel_axis, &out.get()));
}
inline void up_adjoint(const Array& grad, const Array& out, int channel_axis = MAREY_NO_CHANNELS) {
  detail::check(marey_up_adjoint(&grad.get(), channel_axis, &out.get()));
}
// out: the bands, finest first, and the residual.
inline void laplacian(const Array& image, const std::vector<Array>& out,
                      int channel_axis = MAREY_NO_CHANNELS) {
  const std::vector<marey_array> levels = detail::plain(out);
  detail::check(marey_laplacian(&image.get(), static_cast<int32_t>(levels.size()) - 1, channel_axis,
                                levels.data()));
}
inline void collapse(const std::vector<Array>& bands, const Array& out,
                     int channel_axis = MAREY_NO_CHANNELS) {
  const std::vector<marey_array> levels = detail::plain(bands);
  detail::check(marey_collapse(levels.data(), static_cast<int32_t>(levels.size()) - 1, channel_axis,
                               &out.get()));
}

// Filters along one axis. sos: rows b0 b1 b2 a0 a1 a2, one after the other.
inline void sosfilt(const std::vector<double>& sos, const Array& x, const Array& y, int axis = 0,
                    const Array* zi = nullptr, const Array* zf = nullptr) {
  detail::check(marey_sosfilt(sos.data(), static_cast<int64_t>(sos.size()) / 6, &x.get(), axis,
                              detail::pointer(zi), detail::pointer(zf), &y.get()));
}
inline void sosfiltfilt(const std::vector<double>& sos, const Array& x, const Array& y,
                        int axis = 0, marey_extension extension = MAREY_ODD, int64_t padlen = -1) {
  detail::check(marey_sosfiltfilt(sos.data(), static_cast<int64_t>(sos.size()) / 6, &x.get(), axis,
                                  extension, padlen, &y.get()));
}
inline void convolve(const Array& x, const std::vector<double>& taps, const Array& y, int axis = 0,
                     marey_boundary boundary = MAREY_REFLECT, int64_t origin = 0, double cval = 0) {
  detail::check(marey_convolve(&x.get(), axis, taps.data(), static_cast<int64_t>(taps.size()),
                               boundary, origin, cval, &y.get()));
}
inline void median_filter(const Array& x, int64_t size, const Array& y, int axis = 0,
                          marey_boundary boundary = MAREY_REFLECT, int64_t origin = 0,
                          double cval = 0) {
  detail::check(marey_median_filter(&x.get(), axis, size, boundary, origin, cval, &y.get()));
}
inline void median(const Array& x, const Array& y, int axis = 0) {
  detail::check(marey_median(&x.get(), axis, &y.get()));
}
inline void ideal_bandpass(const Array& x, int64_t first, int64_t last, const Array& y,
                           int axis = 0) {
  detail::check(marey_ideal_bandpass(&x.get(), axis, first, last, &y.get()));
}

inline void attention(const Array& q, const Array& k, const Array& v, const Array& out,
                      const marey_attention_options& options = marey_attention_defaults(),
                      const Array* mask = nullptr, const Array* bias = nullptr,
                      const Array* lse = nullptr) {
  detail::check(marey_attention(&q.get(), &k.get(), &v.get(), detail::pointer(mask),
                                detail::pointer(bias), &options, &out.get(), detail::pointer(lse)));
}

// Convolution with weights that are packed once. Several threads may call one object.
class Conv3d {
 public:
  explicit Conv3d(const Array& weight, const Array* bias = nullptr,
                  const marey_conv3d_options& options = marey_conv3d_defaults()) {
    marey_conv3d* conv = nullptr;
    detail::check(marey_conv3d_create(&weight.get(), detail::pointer(bias), &options, &conv));
    conv_.reset(conv);
  }
  void operator()(const Array& x, const Array& y) const {
    detail::check(marey_conv3d_run(conv_.get(), &x.get(), &y.get()));
  }

 private:
  struct Destroy {
    void operator()(marey_conv3d* conv) const { marey_conv3d_destroy(conv); }
  };
  std::unique_ptr<marey_conv3d, Destroy> conv_;
};

// A layer of an LSTM, a GRU or a vanilla recurrent network, packed once.
class Recurrent {
 public:
  Recurrent(marey_cell cell, const Array& weight_ih, const Array& weight_hh,
            const Array* bias_ih = nullptr, const Array* bias_hh = nullptr) {
    marey_recurrent* layer = nullptr;
    detail::check(marey_recurrent_create(cell, &weight_ih.get(), &weight_hh.get(),
                                         detail::pointer(bias_ih), detail::pointer(bias_hh),
                                         &layer));
    layer_.reset(layer);
  }
  void operator()(const Array& x, const Array& y, const Array& h_n, const Array* c_n = nullptr,
                  const Array* h0 = nullptr, const Array* c0 = nullptr,
                  const int64_t* lengths = nullptr, bool reverse = false) const {
    detail::check(marey_recurrent_run(layer_.get(), &x.get(), detail::pointer(h0),
                                      detail::pointer(c0), lengths, reverse, &y.get(), &h_n.get(),
                                      detail::pointer(c_n)));
  }

 private:
  struct Destroy {
    void operator()(marey_recurrent* layer) const { marey_recurrent_destroy(layer); }
  };
  std::unique_ptr<marey_recurrent, Destroy> layer_;
};

}  // namespace api
}  // namespace marey
