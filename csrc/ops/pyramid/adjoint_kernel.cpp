// Rows of the result are independent, so threads take ranges of them. A row is made in two steps,
// both along contiguous memory: the weighted sum of the two to seven rows of the gradient that
// reach it, in a buffer of a row's size that stays in the nearest cache; then the taps along that
// row, as in down and up. Inside the image the weights are constants. Within three pixels of a
// border they are found by walking through the forward operation's own borders (adjoint_taps), so
// that the two cannot disagree, and the few border pixels of a row are computed one by one.
#include "ops/pyramid/adjoint.h"
#include "ops/pyramid/pixel_pairs.h"
#include "ops/pyramid/row_buffers.h"

namespace marey::MAREY_ISA_NS {
namespace {

constexpr int kMostTaps = 8;

// weights[j] is what item first + j of the gradient counts.
template <class T>
struct Taps {
  int64_t first = 0;
  int count = 0;
  T weights[kMostTaps] = {};
};

// What sample `source` of an image of `size` counts in sample `target` of its half, times 16.
inline int weight_in_down(int64_t source, int64_t size, int64_t target) {
  constexpr int kKernel[5] = {1, 4, 6, 4, 1};
  int sum = 0;
  for (int j = 0; j < 5; ++j) {
    if (reflect101(2 * target + j - 2, size) == source) sum += kKernel[j];
  }
  return sum;
}

// What sample `source` of an image of `size` counts in sample `target` of its double, times 8. One
// beyond twice the size, rows repeat the last even one and columns the last one.
inline int weight_in_up(int64_t source, int64_t size, int64_t target, bool column) {
  if (target == 2 * size) target -= column ? 1 : 2;
  const int64_t centre = target / 2;
  if (target % 2 != 0) return 4 * (centre == source) + 4 * (after(centre, size) == source);
  return 6 * (centre == source) + (before(centre, size) == source) +
         (after(centre, size) == source);
}

// The taps of one sample of the result, by trying all that could reach it.
template <AdjointOf kOf, class T>
Taps<T> adjoint_taps(int64_t index, int64_t size, int64_t grad_size, bool column) {
  const int64_t centre = kOf == AdjointOf::down ? index / 2 : 2 * index;
  Taps<T> taps;
  for (int64_t k = std::max<int64_t>(0, centre - 4); k <= centre + 4 && k < grad_size; ++k) {
    const int w = kOf == AdjointOf::down ? weight_in_down(index, size, k)
                                         : weight_in_up(index, size, k, column);
    if (w == 0) continue;
    if (taps.count == 0) taps.first = k;
    taps.count = static_cast<int>(k - taps.first) + 1;
    taps.weights[taps.count - 1] = T(w) * T(kOf == AdjointOf::down ? 1.0 / 16.0 : 1.0 / 8.0);
  }
  return taps;
}

// Samples nearer to a border have taps of their own.
constexpr int64_t kBorder = 3;

template <AdjointOf kOf, class T>
Taps<T> row_taps(int64_t y, int64_t height, int64_t grad_height) {
  if (y < kBorder || y >= height - kBorder) {
    return adjoint_taps<kOf, T>(y, height, grad_height, false);
  }
  if constexpr (kOf == AdjointOf::up) {
    return {2 * y - 2, 5, {T(0.125), T(0.5), T(0.75), T(0.5), T(0.125)}};
  } else {
    if (y % 2 != 0) return {y / 2, 2, {T(0.25), T(0.25)}};
    return {y / 2 - 1, 3, {T(0.0625), T(0.375), T(0.0625)}};
  }
}

template <int kCount, class T>
void sum_rows(const T* const (&rows)[kMostTaps], const T (&weights)[kMostTaps], int count, T* dst,
              int64_t n) {
  using V = Vec<T>;
  const int taps = kCount > 0 ? kCount : count;
  const auto sum = [&](auto&& get) {
    V s = V(weights[0]) * get(rows[0]);
    for (int j = 1; j < taps; ++j) s = fma(V(weights[j]), get(rows[j]), s);
    return s;
  };
  if (n < static_cast<int64_t>(V::size())) {
    store(dst, sum([n](const T* row) { return load_partial<V>(row, n); }));
    return;
  }
  for_each_vector<V>(
      n, [&](int64_t k) { store(dst + k, sum([k](const T* row) { return load<V>(row + k); })); });
}

template <AdjointOf kOf, class T>
class AdjointRows {
 public:
  AdjointRows(const AdjointArgs& args, Arena& arena)
      : args_(args),
        read_(args.grad, arena),
        c_(args.out.channels),
        w_(args.out.width),
        grad_w_(args.grad.width),
        column_(arena.take<T>(buffer_items<T>(grad_w_, c_))),
        even_(arena.take<T>(buffer_items<T>(half(grad_w_) + w_, c_))),
        odd_(arena.take<T>(buffer_items<T>(half(grad_w_) + w_, c_))),
        row_(arena.take<T>(buffer_items<T>(2 * grad_w_, c_))) {}

  static int64_t scratch_bytes(const Plane& grad, const Plane& out) {
    const int64_t c = out.channels;
    return RowReader<T>::scratch_bytes(grad) + Arena::bytes<T>(buffer_items<T>(grad.width, c)) +
           2 * Arena::bytes<T>(buffer_items<T>(half(grad.width) + out.width, c)) +
           Arena::bytes<T>(buffer_items<T>(2 * grad.width, c));
  }

  void operator()(int64_t y) {
    T* v = column_ + 2 * c_;
    column_sums(y, v);
    for (int64_t k = 0; k < 2 * c_; ++k) v[k - 2 * c_] = v[grad_w_ * c_ + k] = T(0);
    kOf == AdjointOf::up ? halve(v) : double_up(v);
    fix_border(v);
    write(y);
  }

 private:
  void column_sums(int64_t y, T* dst) {
    const Taps<T> taps = row_taps<kOf, T>(y, args_.out.height, args_.grad.height);
    const T* rows[kMostTaps];
    T weights[kMostTaps];
    for (int j = 0; j < taps.count; ++j) {
      rows[j] = read_(taps.first + j);
      weights[j] = taps.weights[j] * static_cast<T>(args_.weight);
    }
    const int64_t n = grad_w_ * c_;
    switch (taps.count) {
      case 2:
        return sum_rows<2>(rows, weights, 2, dst, n);
      case 3:
        return sum_rows<3>(rows, weights, 3, dst, n);
      case 5:
        return sum_rows<5>(rows, weights, 5, dst, n);
      default:
        return sum_rows<0>(rows, weights, taps.count, dst, n);
    }
  }

  // row_[i] = (v[2 i - 2] + 4 v[2 i - 1] + 6 v[2 i] + 4 v[2 i + 1] + v[2 i + 2]) / 8, in pixels.
  void halve(const T* v) {
    using V = Vec<T>;
    // even_ holds pixels -2, 0, 2, ... and odd_ holds -1, 1, 3, ...
    split(v - 2 * c_, even_, odd_, w_ + 2, c_);
    const int64_t n = w_ * c_;
    for (int64_t k = 0; k < n; k += static_cast<int64_t>(V::size())) {
      const V outer = load<V>(even_ + k) + load<V>(even_ + k + 2 * c_);
      const V inner = load<V>(odd_ + k) + load<V>(odd_ + k + c_);
      store(row_ + k, (outer + T(4) * inner + T(6) * load<V>(even_ + k + c_)) * T(1.0 / 8.0));
    }
  }

  // row_[2 i] = (v[i - 1] + 6 v[i] + v[i + 1]) / 16 and row_[2 i + 1] = (v[i] + v[i + 1]) / 4.
  void double_up(const T* v) {
    using V = Vec<T>;
    for (int64_t k = 0; k < grad_w_ * c_; k += static_cast<int64_t>(V::size())) {
      const V centre = load<V>(v + k);
      const V right = load<V>(v + k + c_);
      store(even_ + k, (load<V>(v + k - c_) + right + T(6) * centre) * T(1.0 / 16.0));
      store(odd_ + k, (centre + right) * T(1.0 / 4.0));
    }
    merge(even_, odd_, row_, grad_w_, c_);
  }

  void fix_border(const T* v) {
    for (int64_t x = 0; x < w_; x = x + 1 == kBorder ? std::max(w_ - kBorder, kBorder) : x + 1) {
      const Taps<T> taps = adjoint_taps<kOf, T>(x, w_, grad_w_, true);
      for (int64_t c = 0; c < c_; ++c) {
        T sum = 0;
        for (int j = 0; j < taps.count; ++j) sum += taps.weights[j] * v[(taps.first + j) * c_ + c];
        row_[x * c_ + c] = sum;
      }
    }
  }

  void write(int64_t y) {
    using V = Vec<T>;
    T* out = reinterpret_cast<T*>(args_.out.data + y * args_.out.row_stride);
    const int64_t n = w_ * c_;
    if (args_.add.data == nullptr)
      return write_row<T>(out, n, false, [&](int64_t k) { return load<V>(row_ + k); });
    const Plane& add = args_.add;
    if (add_lies_in_rows()) {
      const T* own = reinterpret_cast<const T*>(add.data + y * add.row_stride);
      constexpr int64_t kLanes = static_cast<int64_t>(V::size());
      return write_row<T>(out, n, false, [&](int64_t k) {
        return V((n < kLanes ? load_partial<V>(own, n) : load<V>(own + k)) + load<V>(row_ + k));
      });
    }
    for (int64_t x = 0; x < w_; ++x) {
      for (int64_t c = 0; c < c_; ++c) {
        const std::byte* own =
            add.data + y * add.row_stride + x * add.pixel_stride + c * add.channel_stride;
        out[x * c_ + c] = *reinterpret_cast<const T*>(own) + row_[x * c_ + c];
      }
    }
  }

  bool add_lies_in_rows() const {
    const Plane& add = args_.add;
    return (c_ == 1 || add.channel_stride == sizeof(T)) &&
           (w_ == 1 || add.pixel_stride == c_ * static_cast<int64_t>(sizeof(T)));
  }

  const AdjointArgs& args_;
  RowReader<T> read_;
  const int64_t c_;
  const int64_t w_;
  const int64_t grad_w_;
  T* column_;  // from pixel -2 on
  T* even_;
  T* odd_;
  T* row_;
};

template <AdjointOf kOf, class T>
struct Adjoint {
  static void run(const AdjointArgs& args, int64_t begin, int64_t end, std::byte* scratch) {
    Arena arena(scratch);
    AdjointRows<kOf, T> row(args, arena);
    for (int64_t y = begin; y < end; ++y) row(y);
  }
  static constexpr AdjointKernel kernel{run, AdjointRows<kOf, T>::scratch_bytes};
};

}  // namespace

AdjointKernel select_adjoint(AdjointOf operation, DType dtype) {
  const bool wide = dtype == DType::f64;
  if (operation == AdjointOf::down) {
    return wide ? Adjoint<AdjointOf::down, double>::kernel
                : Adjoint<AdjointOf::down, float>::kernel;
  }
  return wide ? Adjoint<AdjointOf::up, double>::kernel : Adjoint<AdjointOf::up, float>::kernel;
}

}  // namespace marey::MAREY_ISA_NS
