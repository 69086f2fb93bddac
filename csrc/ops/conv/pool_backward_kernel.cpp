// Every position of x gathers from the windows that it is in, so that rows of x are independent of
// one another, each is written once, and sums of bfloat16 are rounded once. For the maximum a first
// pass over x finds which place of its window each result came from.
//
// Vectors run along rows of the result (W' positions, in NTHWC with all their channels), whatever
// the stride along W: the place l of window w is at w * stride + l * dilation, counted from the
// beginning of the padding, and of a row taken apart into `stride` rows of every stride-th position
// (its phases) that is item w + l * dilation / stride of the phase l * dilation % stride.
#include <algorithm>
#include <limits>

#include "core/tile.h"
#include "ops/conv/pool_backward.h"
#include "ops/conv/pool_lanes.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class S, class T>
class PoolGrad {
 public:
  explicit PoolGrad(const PoolProblem& p, std::byte* scratch = nullptr)
      : p_(p), channels_(p.channels), row_(p.w.out * p.channels) {
    const int64_t reach = (p.w.kernel - 1) * p.w.dilation;
    phases_ = std::min(p.w.stride, reach + 1);
    pitch_ = (p.w.out + reach / p.w.stride) * channels_;
    const auto take = [&](int64_t items) {
      std::byte* at = scratch == nullptr ? nullptr : scratch + bytes_;
      bytes_ += row_bytes<T>(items);
      return reinterpret_cast<T*>(at);
    };
    pitch_ = row_bytes<T>(pitch_) / static_cast<int64_t>(sizeof(T));
    phase_ = take(phases_ * pitch_);
    grad_ = take(row_);
    sum_ = take(row_);
    divisor_ = take(row_);
    first_ = take(row_);
  }
  int64_t bytes() const { return bytes_; }

  // ---- the maximum: which place of its window each result came from ----

  void find(const PoolGradRows& rows) {
    const S* const x = static_cast<const S*>(rows.x);
    const PoolAxis::Inside time = p_.t.inside(rows.t);
    const int64_t frame = (time.first - rows.t * p_.t.stride + p_.t.before) / p_.t.dilation;
    for (int64_t w = 0; w < p_.w.out; ++w) {
      const PoolAxis::Inside width = p_.w.inside(w);
      const int64_t skipped =
          width.count == 0 ? -1 : (width.first - w * p_.w.stride + p_.w.before) / p_.w.dilation;
      std::fill_n(first_ + w * channels_, channels_, static_cast<T>(skipped));
    }
    for (int64_t h = rows.begin; h < rows.end; ++h) {
      const PoolAxis::Inside height = p_.h.inside(h);
      const int64_t line = (height.first - h * p_.h.stride + p_.h.before) / p_.h.dilation;
      T* const place = static_cast<T*>(rows.place) + (rows.t * p_.h.out + h) * row_;
      std::fill_n(sum_, row_, -std::numeric_limits<T>::infinity());
      if (time.count == 0 || height.count == 0) {
        std::fill_n(place, row_, T(-1));
        continue;
      }
      const auto base = static_cast<T>((frame * p_.h.kernel + line) * p_.w.kernel);
      for (int64_t f = 0; f < row_; ++f) place[f] = first_[f] < 0 ? T(-1) : base + first_[f];
      for (int64_t i = 0; i < time.count; ++i) {
        for (int64_t j = 0; j < height.count; ++j) {
          take_apart(x + (time.first + i * p_.t.dilation) * p_.x_t +
                     (height.first + j * p_.h.dilation) * p_.x_h);
          const int64_t tap = ((frame + i) * p_.h.kernel + line + j) * p_.w.kernel;
          for (int64_t l = 0; l < p_.w.kernel; ++l) find_larger(l, tap + l, place);
        }
      }
    }
  }

  // ---- grad_x ----

  template <bool kMaximum>
  void gather(const PoolGradRows& rows) {
    const Windows time = windows_of(p_.t, rows.t);
    for (int64_t h = rows.begin; h < rows.end; ++h) {
      const Windows height = windows_of(p_.h, h);
      clear(phase_, phases_ * pitch_);
      clear(sum_, row_);
      for (int64_t t = time.begin; t < time.end; ++t) {
        const int64_t frame = tap_of(p_.t, t, rows.t);
        if (frame < 0) continue;
        for (int64_t q = height.begin; q < height.end; ++q) {
          const int64_t line = tap_of(p_.h, q, h);
          if (line < 0) continue;
          const T* const grad = grad_row(rows, t, q);
          if constexpr (kMaximum) {
            const T* place = static_cast<const T*>(rows.place) + (t * p_.h.out + q) * row_;
            const int64_t tap = (frame * p_.h.kernel + line) * p_.w.kernel;
            for (int64_t l = 0; l < p_.w.kernel; ++l) add_where(l, tap + l, grad, place);
          } else {
            const int64_t counted = std::max<int64_t>(p_.t.counted(t, p_.count_include_pad), 1) *
                                    std::max<int64_t>(p_.h.counted(q, p_.count_include_pad), 1);
            add_divided(grad, static_cast<T>(counted));
          }
        }
      }
      if constexpr (!kMaximum) spread();
      put_together(static_cast<S*>(rows.grad_x) + rows.t * p_.x_t + h * p_.x_h);
    }
  }

  // How many places count along W, for each item of a row.
  void set_divisors() {
    for (int64_t w = 0; w < p_.w.out; ++w) {
      const int64_t counted = std::max<int64_t>(p_.w.counted(w, p_.count_include_pad), 1);
      std::fill_n(divisor_ + w * channels_, channels_, static_cast<T>(counted));
    }
  }

 private:
  using V = Vec<T>;
  static constexpr int64_t kLanes = static_cast<int64_t>(V::size());

  static void clear(T* to, int64_t count) { std::fill_n(to, count, T(0)); }

  // The windows that may hold position p of an axis.
  struct Windows {
    int64_t begin, end;
  };
  static Windows windows_of(const PoolAxis& axis, int64_t p) {
    const int64_t at = p + axis.before;
    const int64_t low = at - axis.extent() + 1;
    return {low <= 0 ? 0 : (low + axis.stride - 1) / axis.stride,
            std::min(axis.out, at / axis.stride + 1)};
  }
  // Which place of window q position p is, or -1.
  static int64_t tap_of(const PoolAxis& axis, int64_t q, int64_t p) {
    const int64_t at = p + axis.before - q * axis.stride;
    return at % axis.dilation == 0 ? at / axis.dilation : -1;
  }

  // Where the place l of the windows lies, of all of them one after the other.
  T* phase_of(int64_t l) const {
    const int64_t at = l * p_.w.dilation;
    return phase_ + at % p_.w.stride * pitch_ + at / p_.w.stride * channels_;
  }

  // f(first item, how many) for each vector of a row, the last of which may be shorter.
  template <class F>
  void along_row(const F& f) const {
    for (int64_t k = 0; k < row_; k += kLanes) f(k, std::min(kLanes, row_ - k));
  }
  static V load_up_to(const T* p, int64_t count) {
    return count == kLanes ? load<V>(p) : load_some<V>(p, count);
  }
  static void store_up_to(T* p, const V& v, int64_t count) {
    if (count == kLanes) {
      store(p, v);
    } else {
      store_some(p, v, count);
    }
  }

  void find_larger(int64_t l, int64_t tap, T* place) const {
    const T* from = phase_of(l);
    const V here(static_cast<T>(tap));
    along_row([&](int64_t k, int64_t count) {
      const V x = load_up_to(from + k, count);
      V best = load_up_to(sum_ + k, count);
      V at = load_up_to(place + k, count);
      const auto larger = x > best || (x != x && best == best);
      stdx::where(larger, best) = x;
      stdx::where(larger, at) = here;
      store_up_to(sum_ + k, best, count);
      store_up_to(place + k, at, count);
    });
  }

  void add_where(int64_t l, int64_t tap, const T* grad, const T* place) const {
    T* to = phase_of(l);
    const V here(static_cast<T>(tap));
    along_row([&](int64_t k, int64_t count) {
      V sum = load_up_to(to + k, count);
      const V more = load_up_to(grad + k, count);
      stdx::where(load_up_to(place + k, count) == here, sum) = sum + more;
      store_up_to(to + k, sum, count);
    });
  }

  void add_divided(const T* grad, T counted) const {
    along_row([&](int64_t k, int64_t count) {
      const V share = load_up_to(grad + k, count) / V(counted);
      store_up_to(sum_ + k, load_up_to(sum_ + k, count) + share, count);
    });
  }

  void spread() const {
    along_row([&](int64_t k, int64_t count) {
      const V share = load_up_to(sum_ + k, count) / load_up_to(divisor_ + k, count);
      store_up_to(sum_ + k, share, count);
    });
    if (row_ == 1 && p_.w.dilation == 1 && phases_ == 1) {
      std::fill_n(phase_, p_.w.kernel, sum_[0]);
      return;
    }
    for (int64_t l = 0; l < p_.w.kernel; ++l) {
      T* to = phase_of(l);
      along_row([&](int64_t k, int64_t count) {
        store_up_to(to + k, load_up_to(to + k, count) + load_up_to(sum_ + k, count), count);
      });
    }
  }

  // A row of grad as T, side by side.
  const T* grad_row(const PoolGradRows& rows, int64_t t, int64_t h) const {
    const S* from = static_cast<const S*>(rows.grad) + t * rows.grad_t + h * p_.out_h;
    if (p_.out_in_rows()) {
      if constexpr (std::is_same_v<S, T>) return from;
      along_row([&](int64_t k, int64_t count) {
        store_up_to(grad_ + k,
                    count == kLanes ? load_as<V>(from + k) : load_some<V>(from + k, count), count);
      });
      return grad_;
    }
    for (int64_t w = 0; w < p_.w.out; ++w) {
      for (int64_t c = 0; c < channels_; ++c) {
        grad_[w * channels_ + c] = convert<T>(from[w * p_.out_w + c * p_.out_c]);
      }
    }
    return grad_;
  }

  // f(position along W, where it is in the phases) for those that a window has a place for.
  template <class F>
  void each_position(const F& f) const {
    const int64_t end = p_.w.before + p_.w.in;
    for (int64_t phase = 0; phase < phases_; ++phase) {
      const int64_t skipped =
          p_.w.before > phase ? (p_.w.before - phase + p_.w.stride - 1) / p_.w.stride : 0;
      const int64_t count =
          std::min(pitch_ / channels_, end > phase ? (end - phase - 1) / p_.w.stride + 1 : 0);
      for (int64_t k = skipped; k < count; ++k) {
        f(k * p_.w.stride + phase - p_.w.before, phase_ + phase * pitch_ + k * channels_);
      }
    }
  }

  // A row of x to phases, -inf around it.
  void take_apart(const S* from) const {
    std::fill_n(phase_, phases_ * pitch_, -std::numeric_limits<T>::infinity());
    if (p_.w.stride == 1 && p_.x_in_rows()) {
      const int64_t count = p_.w.in * channels_;
      T* to = phase_ + p_.w.before * channels_;
      for (int64_t k = 0; k < count; k += kLanes) {
        const int64_t some = std::min(kLanes, count - k);
        store_up_to(to + k, some == kLanes ? load_as<V>(from + k) : load_some<V>(from + k, some),
                    some);
      }
      return;
    }
    each_position([&](int64_t w, T* to) {
      for (int64_t c = 0; c < channels_; ++c) to[c] = convert<T>(from[w * p_.x_w + c * p_.x_c]);
    });
  }

  // The reverse, to grad_x. Positions between windows get nothing.
  void put_together(S* to) const {
    if (p_.w.stride == 1 && p_.x_in_rows()) {
      const int64_t count = p_.w.in * channels_;
      const T* from = phase_ + p_.w.before * channels_;
      for (int64_t k = 0; k < count; k += kLanes) {
        const int64_t some = std::min(kLanes, count - k);
        if (some == kLanes) {
          store_as(to + k, load<V>(from + k));
        } else {
          store_some(to + k, load_some<V>(from + k, some), some);
        }
      }
      return;
    }
    for (int64_t w = 0; w < p_.w.in; ++w) {
      for (int64_t c = 0; c < channels_; ++c) assign(to[w * p_.x_w + c * p_.x_c], T(0));
    }
    each_position([&](int64_t w, const T* from) {
      for (int64_t c = 0; c < channels_; ++c) assign(to[w * p_.x_w + c * p_.x_c], from[c]);
    });
  }

  const PoolProblem& p_;
  int64_t channels_;
  int64_t row_;         // items of a row of the result
  int64_t phases_ = 1;  // those that a window has a place in
  int64_t pitch_ = 0;   // items from one to the next
  int64_t bytes_ = 0;
  T* phase_;
  T* grad_;     // a row of grad, if it does not lie in one piece or is of another type
  T* sum_;      // of a row: the largest so far; the sum of grad
  T* divisor_;  // of a row
  T* first_;    // place along W of the first position inside
};

template <class S, class T>
PoolGradKernel kernel_of(Pooling kind) {
  PoolGradKernel kernel{};
  kernel.scratch_bytes = [](const PoolProblem& problem) { return PoolGrad<S, T>(problem).bytes(); };
  if (kind == Pooling::max) {
    kernel.find = [](const PoolGradRows& rows) {
      PoolGrad<S, T>(*rows.problem, rows.scratch).find(rows);
    };
    kernel.gather = [](const PoolGradRows& rows) {
      PoolGrad<S, T>(*rows.problem, rows.scratch).template gather<true>(rows);
    };
  } else {
    kernel.gather = [](const PoolGradRows& rows) {
      PoolGrad<S, T> grad(*rows.problem, rows.scratch);
      grad.set_divisors();
      grad.template gather<false>(rows);
    };
  }
  return kernel;
}

}  // namespace

PoolGradKernel select_pool_grad(DType dtype, Pooling kind) {
  switch (dtype) {
    case DType::f32:
      return kernel_of<float, float>(kind);
    case DType::f64:
      return kernel_of<double, double>(kind);
    case DType::bf16:
      return kernel_of<bfloat16, float>(kind);
    case DType::u8:
      break;
  }
  return {};
}

}  // namespace marey::MAREY_ISA_NS
