// A window is a box, and both the maximum and the sum over a box are those along time of those
// along height of those along width: kT + kH + kW steps for an item instead of their product. Along
// time and height vectors run over whole rows (W positions, in NTHWC with all their channels), the
// same for every layout. Rows reduced along time are kept while windows of the next rows of the
// result need them, as many at once as the first-level cache has room for, so that the small frames
// of deep layers are reduced in one run. Along width a row stands between margins of -inf or 0, so
// that no window has an edge; if C is 1 it is reduced at every position, and every stride-th one is
// picked out, since vectors of neighbours cost less than gathered ones. Windows that do not overlap
// are reduced at once: nothing would be kept; those of two neighbours along W in registers.
//
// At most 24 KiB of rows, because those of x that they are made of want room in the cache as well.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "core/tile.h"
#include "ops/conv/pool.h"
#include "ops/conv/pool_lanes.h"

namespace marey::MAREY_ISA_NS {
namespace {

constexpr int64_t kKeptBytes = 24 << 10;
constexpr int64_t kMostTaps = 64;  // of a window that is not taken apart

// a > b ? a : b, which is b where either is NaN.
template <class T>
Vec<T> larger_or_second(const Vec<T>& a, const Vec<T>& b) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) {
    return Vec<T>(_mm512_max_ps(static_cast<__m512>(a), static_cast<__m512>(b)));
  } else {
    return Vec<T>(_mm512_max_pd(static_cast<__m512d>(a), static_cast<__m512d>(b)));
  }
#elif defined(__AVX__)
  if constexpr (std::is_same_v<T, float>) {
    return Vec<T>(_mm256_max_ps(static_cast<__m256>(a), static_cast<__m256>(b)));
  } else {
    return Vec<T>(_mm256_max_pd(static_cast<__m256d>(a), static_cast<__m256d>(b)));
  }
#elif defined(__SSE2__)
  if constexpr (std::is_same_v<T, float>) {
    return Vec<T>(_mm_max_ps(static_cast<__m128>(a), static_cast<__m128>(b)));
  } else {
    return Vec<T>(_mm_max_pd(static_cast<__m128d>(a), static_cast<__m128d>(b)));
  }
#else
  Vec<T> result = b;
  stdx::where(a > b, result) = a;
  return result;
#endif
}

template <class T>
struct Maximum {
  static constexpr bool kDivides = false;
  static constexpr T kNothing = -std::numeric_limits<T>::infinity();
  // NaN once met stays.
  static Vec<T> join(const Vec<T>& sum, const Vec<T>& x) {
    Vec<T> result = larger_or_second(x, sum);
    stdx::where(x != x, result) = x;
    return result;
  }
};

template <class T>
struct Sum {
  static constexpr bool kDivides = true;
  static constexpr T kNothing = 0;
  static Vec<T> join(const Vec<T>& sum, const Vec<T>& x) { return sum + x; }
};

// What is done to a vector before it is stored, at item f of its row.
struct AsItIs {
  template <class V>
  V operator()(const V& v, int64_t /*f*/) const {
    return v;
  }
};
template <class T>
struct DividedByRow {
  const T* divisor;
  Vec<T> operator()(const Vec<T>& v, int64_t f) const { return v / load<Vec<T>>(divisor + f); }
};
template <class T>
struct DividedBy {
  Vec<T> divisor;
  Vec<T> operator()(const Vec<T>& v, int64_t /*f*/) const { return v / divisor; }
};

// Where the values of a window lie: n > 0 of them, in items from the first.
struct Taps {
  const int64_t* offset;
  int64_t n;
};

// out[f] = finish(the join of from[f + offset]) for f < count. The last vector overlaps the one
// before, so that nothing beyond the rows is touched.
template <class Op, class T, class S, class D, class Finish>
void reduce(const S* from, const Taps& taps, int64_t count, D* out, const Finish& finish) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  constexpr int kUnrolled = 4;
  int64_t f = 0;
  for (; f + kUnrolled * kLanes <= count; f += kUnrolled * kLanes) {
    V sum[kUnrolled];
    const S* p = from + f + taps.offset[0];
    for (int u = 0; u < kUnrolled; ++u) sum[u] = load_as<V>(p + u * kLanes);
    for (int64_t i = 1; i < taps.n; ++i) {
      p = from + f + taps.offset[i];
      for (int u = 0; u < kUnrolled; ++u) sum[u] = Op::join(sum[u], load_as<V>(p + u * kLanes));
    }
    for (int u = 0; u < kUnrolled; ++u) {
      store_as(out + f + u * kLanes, finish(sum[u], f + u * kLanes));
    }
  }
  while (f < count) {
    if (count < kLanes) {
      V sum = load_some<V>(from + taps.offset[0], count);
      for (int64_t i = 1; i < taps.n; ++i) {
        sum = Op::join(sum, load_some<V>(from + taps.offset[i], count));
      }
      store_some(out, finish(sum, 0), count);
      return;
    }
    f = std::min(f, count - kLanes);
    V sum = load_as<V>(from + f + taps.offset[0]);
    for (int64_t i = 1; i < taps.n; ++i) {
      sum = Op::join(sum, load_as<V>(from + f + taps.offset[i]));
    }
    store_as(out + f, finish(sum, f));
    f += kLanes;
  }
}

template <class V, int... kLane>
V even_lanes(const V& a, const V& b, std::integer_sequence<int, kLane...>) {
  using T = typename V::value_type;
  using Raw [[gnu::vector_size(sizeof...(kLane) * sizeof(T))]] = T;
  return std::bit_cast<V>(
      __builtin_shufflevector(std::bit_cast<Raw>(a), std::bit_cast<Raw>(b), (2 * kLane)...));
}

template <class V, int... kLane>
V odd_lanes(const V& a, const V& b, std::integer_sequence<int, kLane...>) {
  using T = typename V::value_type;
  using Raw [[gnu::vector_size(sizeof...(kLane) * sizeof(T))]] = T;
  return std::bit_cast<V>(
      __builtin_shufflevector(std::bit_cast<Raw>(a), std::bit_cast<Raw>(b), (2 * kLane + 1)...));
}

// out[q] = finish(the join of from[2 q + offset] and its neighbours) for q < count, which is at
// least a vector. Reads nothing beyond the last.
template <class Op, class T, class S, class D, class Finish>
void reduce_pairs(const S* from, const Taps& taps, int64_t count, D* out, const Finish& finish) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  constexpr std::make_integer_sequence<int, static_cast<int>(V::size())> kAll{};
  for (int64_t q = 0; q < count; q += kLanes) {
    q = std::min(q, count - kLanes);
    const S* p = from + 2 * q + taps.offset[0];
    V low = load_as<V>(p);
    V high = load_as<V>(p + kLanes);
    for (int64_t i = 1; i < taps.n; ++i) {
      p = from + 2 * q + taps.offset[i];
      low = Op::join(low, load_as<V>(p));
      high = Op::join(high, load_as<V>(p + kLanes));
    }
    store_as(out + q, finish(Op::join(even_lanes(low, high, kAll), odd_lanes(low, high, kAll)), q));
  }
}

// out[q] = finish(the join of from[2 q + offset]) for q < count. Reads two vectors beyond the last.
template <class Op, class T, class D, class Finish>
void reduce_at_every_second(const T* from, const Taps& taps, int64_t count, D* out,
                            const Finish& finish) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  for (int64_t q = 0; q < count; q += kLanes) {
    if (count > kLanes) q = std::min(q, count - kLanes);
    const T* p = from + 2 * q + taps.offset[0];
    V low = load<V>(p);
    V high = load<V>(p + kLanes);
    for (int64_t i = 1; i < taps.n; ++i) {
      p = from + 2 * q + taps.offset[i];
      low = Op::join(low, load<V>(p));
      high = Op::join(high, load<V>(p + kLanes));
    }
    constexpr std::make_integer_sequence<int, static_cast<int>(V::size())> kAll{};
    const V v = finish(even_lanes(low, high, kAll), q);
    if (count >= kLanes) {
      store_as(out + q, v);
    } else {
      store_some(out, v, count);
    }
  }
}

// out[q] = finish(from[stride q]) for q < count.
template <class T, class D, class Finish>
void pick(const T* from, int64_t stride, int64_t count, D* out, const Finish& finish) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  for (int64_t q = 0; q < count; q += kLanes) {
    alignas(kAlignment) T lanes[V::size()] = {};
    const int64_t end = std::min(kLanes, count - q);
    for (int64_t k = 0; k < end; ++k) lanes[k] = from[(q + k) * stride];
    const V v = finish(load<V>(lanes), q);
    if (q + kLanes <= count) {
      store_as(out + q, v);
    } else {
      store_some(out + q, v, count - q);
    }
  }
}

// How a window is taken apart.
enum class Plan {
  // Along time into rows that are kept for the next windows, along height, along width.
  three_steps,
  // Along time and height at once, because no window needs what another one has reduced.
  two_steps,
  // All of it at once, for each place by itself: vectors run along its channels.
  one_step,
};

Plan plan_of(const PoolProblem& p) {
  const bool apart_h = p.h.stride >= p.h.extent();
  const bool apart_w = p.w.stride >= p.w.extent();
  const int64_t frame = p.t.kernel * p.h.kernel;
  if (p.channels > 1 && !p.w.trivial() && apart_h && apart_w && frame * p.w.kernel <= kMostTaps) {
    return Plan::one_step;
  }
  const bool one_axis = p.t.kernel == 1 || p.h.kernel == 1;
  if (p.x_in_rows() && (one_axis || (apart_h && frame <= kMostTaps))) return Plan::two_steps;
  return Plan::three_steps;
}

// The scratch of a thread: what lies in it, and how large it is.
template <class S, class T>
struct Scratch {
  explicit Scratch(const PoolProblem& p, std::byte* memory = nullptr)
      : plan(plan_of(p)),
        row(p.w.in * p.channels),
        before(p.w.before * p.channels),
        beyond(
            std::max<int64_t>((p.w.out - 1) * p.w.stride + p.w.extent() - p.w.before - p.w.in, 0) *
            p.channels) {
    const auto take = [&](int64_t size) {
      std::byte* at = memory == nullptr ? nullptr : memory + bytes;
      bytes += size;
      return at;
    };
    const int64_t out_row = p.w.out * p.channels;
    taps = reinterpret_cast<int64_t*>(
        take(row_bytes<int64_t>(std::max({kMostTaps, p.t.kernel, p.h.kernel}))));
    result = reinterpret_cast<S*>(take(p.out_in_rows() ? 0 : row_bytes<S>(out_row)));
    if (plan == Plan::one_step) return;
    heights = reinterpret_cast<int64_t*>(take(row_bytes<int64_t>(p.h.kernel)));
    widths = reinterpret_cast<int64_t*>(take(row_bytes<int64_t>(p.w.kernel)));
    margined = reinterpret_cast<T*>(take(row_bytes<T>(before + row + beyond)));
    everywhere = reinterpret_cast<T*>(take(row_bytes<T>(before + row + beyond)));
    divisors = reinterpret_cast<T*>(take(row_bytes<T>(out_row)));
    if (plan == Plan::two_steps) return;
    const int64_t fit = kKeptBytes / std::max<int64_t>(row * static_cast<int64_t>(sizeof(T)), 1);
    rows = std::clamp(fit, std::min(2 * p.h.extent(), p.h.in), p.h.in);
    kept = reinterpret_cast<T*>(take(row_bytes<T>(rows * row)));
    gathered = reinterpret_cast<S*>(take(p.x_in_rows() ? 0 : row_bytes<S>(p.t.kernel * row)));
  }

  Plan plan;
  int64_t row, before, beyond;  // items
  int64_t rows = 0;             // that `kept` has room for
  int64_t bytes = 0;
  int64_t* taps;               // of a window in x
  S* result;                   // a row of the result that goes to scattered places
  int64_t* heights = nullptr;  // the steps of a window along height in `kept`
  int64_t* widths = nullptr;   // along width in `margined`
  T* margined = nullptr;       // a row reduced along time and height, between margins
  T* everywhere = nullptr;     // that reduced along width at every position
  T* divisors = nullptr;       // of a row of the result
  T* kept = nullptr;           // rows of x, reduced along time
  S* gathered = nullptr;       // rows of x
};

template <class Op, class S, class T>
class Pool {
 public:
  explicit Pool(const PoolRows& rows)
      : p_(*rows.problem),
        rows_(rows),
        s_(p_, rows.scratch),
        x_(static_cast<const S*>(rows.x)),
        time_(p_.t.inside(rows.t)),
        wide_(!p_.w.trivial()),
        pairs_(s_.plan == Plan::two_steps && pairs_along_width(p_)) {
    if constexpr (Op::kDivides) {
      frames_ = std::max<int64_t>(p_.t.counted(rows.t, p_.count_include_pad), 1);
    }
    if (s_.plan == Plan::one_step) return;
    std::fill_n(s_.margined, s_.before, Op::kNothing);
    std::fill_n(s_.margined + s_.before + s_.row, s_.beyond, Op::kNothing);
    for (int64_t l = 0; l < p_.w.kernel; ++l) s_.widths[l] = l * p_.w.dilation * p_.channels;
    for (int64_t j = 0; j < p_.h.kernel; ++j) s_.heights[j] = j * p_.h.dilation * s_.row;
  }

  void run() {
    const bool scattered = !p_.out_in_rows();
    for (int64_t h = rows_.begin; h < rows_.end; ++h) {
      S* out = static_cast<S*>(rows_.out) + h * p_.out_h;
      S* to = scattered ? s_.result : out;
      row(h, to);
      if (scattered) scatter(out);
    }
  }

 private:
  void row(int64_t h, S* out) {
    const PoolAxis::Inside height = p_.h.inside(h);
    if (time_.count == 0 || height.count == 0) return nothing(out, p_.w.out * p_.channels);
    if constexpr (Op::kDivides) {
      frames_and_rows_ = frames_ * std::max<int64_t>(p_.h.counted(h, p_.count_include_pad), 1);
    }
    const S* from = x_ + time_.first * p_.x_t + height.first * p_.x_h;
    switch (s_.plan) {
      case Plan::one_step:
        return places(from, height.count, out);
      case Plan::two_steps:
        if (pairs_) return pairs(from, box(height.count, 1), out);
        return along_width(from, box(height.count, 1), out);
      case Plan::three_steps:
        keep(height.first, height.first + (height.count - 1) * p_.h.dilation + 1);
        return along_width(s_.kept + (height.first - first_) * s_.row,
                           Taps{s_.heights, height.count}, out);
    }
  }

  // Whether windows along W are neighbours two by two, all inside of x, and fill a vector.
  static bool pairs_along_width(const PoolProblem& p) {
    return p.channels == 1 && p.w.kernel == 2 && p.w.stride == 2 && p.w.dilation == 1 &&
           p.w.before == 0 && 2 * p.w.out <= p.w.in &&
           p.w.out >= static_cast<int64_t>(Vec<T>::size());
  }

  void pairs(const S* from, const Taps& taps, S* out) const {
    if constexpr (Op::kDivides) {
      const DividedBy<T> finish{Vec<T>(static_cast<T>(counted(0)))};
      reduce_pairs<Op, T>(from, taps, p_.w.out, out, finish);
    } else {
      reduce_pairs<Op, T>(from, taps, p_.w.out, out, AsItIs{});
    }
  }

  static void nothing(S* out, int64_t count) {
    for (int64_t f = 0; f < count; ++f) assign(out[f], Op::kNothing);
  }

  // What a window holds of x along time, and of so many rows and columns.
  Taps box(int64_t rows, int64_t columns) {
    if (rows != box_rows_ || columns != box_columns_) {
      box_rows_ = rows;
      box_columns_ = columns;
      int64_t* offset = s_.taps;
      for (int64_t i = 0; i < time_.count; ++i) {
        for (int64_t j = 0; j < rows; ++j) {
          for (int64_t l = 0; l < columns; ++l) {
            *offset++ = i * p_.t.dilation * p_.x_t + j * p_.h.dilation * p_.x_h +
                        l * p_.w.dilation * p_.x_w;
          }
        }
      }
    }
    return {s_.taps, time_.count * rows * columns};
  }

  void places(const S* from, int64_t rows, S* out) {
    const int64_t C = p_.channels;
    for (int64_t w = 0; w < p_.w.out; ++w) {
      const PoolAxis::Inside width = p_.w.inside(w);
      if (width.count == 0) {
        nothing(out + w * C, C);
      } else {
        place(from + width.first * p_.x_w, box(rows, width.count), w, out + w * C);
      }
    }
  }

  template <class From>
  void place(const From* from, const Taps& taps, int64_t w, S* out) {
    if constexpr (Op::kDivides) {
      const DividedBy<T> finish{Vec<T>(static_cast<T>(counted(w)))};
      reduce<Op, T>(from, taps, p_.channels, out, finish);
    } else {
      reduce<Op, T>(from, taps, p_.channels, out, AsItIs{});
    }
  }

  int64_t counted(int64_t w) const {
    return frames_and_rows_ * std::max<int64_t>(p_.w.counted(w, p_.count_include_pad), 1);
  }

  // From rows of which `taps` remain to be joined.
  template <class From>
  void along_width(const From* from, const Taps& taps, S* out) {
    if (!wide_) {
      if constexpr (Op::kDivides) {
        const DividedBy<T> finish{Vec<T>(static_cast<T>(frames_and_rows_))};
        reduce<Op, T>(from, taps, s_.row, out, finish);
      } else {
        reduce<Op, T>(from, taps, s_.row, out, AsItIs{});
      }
      return;
    }
    reduce<Op, T>(from, taps, s_.row, s_.margined + s_.before, AsItIs{});
    const Taps width{s_.widths, p_.w.kernel};
    if (p_.channels > 1 && p_.w.stride > 1) {
      for (int64_t w = 0; w < p_.w.out; ++w) {
        const T* at = s_.margined + w * p_.w.stride * p_.channels;
        place(at, width, w, out + w * p_.channels);
      }
    } else if constexpr (Op::kDivides) {
      set_divisors();
      windows(width, out, DividedByRow<T>{s_.divisors});
    } else {
      windows(width, out, AsItIs{});
    }
  }

  template <class Finish>
  void windows(const Taps& width, S* out, const Finish& finish) {
    if (p_.w.stride == 1) {
      reduce<Op, T>(s_.margined, width, p_.w.out * p_.channels, out, finish);
    } else if (p_.w.stride == 2) {
      reduce_at_every_second<Op>(s_.margined, width, p_.w.out, out, finish);
    } else {
      const int64_t places = (p_.w.out - 1) * p_.w.stride + 1;
      reduce<Op, T>(s_.margined, width, places, s_.everywhere, AsItIs{});
      pick(s_.everywhere, p_.w.stride, p_.w.out, out, finish);
    }
  }

  void set_divisors() {
    if (frames_and_rows_ == divided_by_) return;
    divided_by_ = frames_and_rows_;
    for (int64_t w = 0; w < p_.w.out; ++w) {
      std::fill_n(s_.divisors + w * p_.channels, p_.channels, static_cast<T>(counted(w)));
    }
  }

  // Sees to it that rows [low, high) of x are in s_.kept, reduced along time.
  void keep(int64_t low, int64_t high) {
    if (high <= end_) return;
    if (high > first_ + s_.rows) {
      const int64_t still = std::max<int64_t>(end_ - low, 0);
      std::memmove(s_.kept, s_.kept + (low - first_) * s_.row,
                   static_cast<std::size_t>(still * s_.row) * sizeof(T));
      first_ = low;
      end_ = low + still;
    }
    const PoolAxis::Inside last = p_.h.inside(rows_.end - 1);
    const int64_t needed = std::max(high, last.first + (last.count - 1) * p_.h.dilation + 1);
    const int64_t end = std::min(needed, first_ + s_.rows);
    const bool in_rows = p_.x_in_rows();
    const int64_t together = in_rows && p_.x_h == s_.row ? end - end_ : 1;
    for (; end_ < end; end_ += together) {
      const S* from = x_ + time_.first * p_.x_t + end_ * p_.x_h;
      if (!in_rows) {
        for (int64_t i = 0; i < time_.count; ++i) {
          gather(from + i * p_.t.dilation * p_.x_t, s_.gathered + i * s_.row);
          s_.taps[i] = i * s_.row;
        }
        from = s_.gathered;
      } else {
        for (int64_t i = 0; i < time_.count; ++i) s_.taps[i] = i * p_.t.dilation * p_.x_t;
      }
      reduce<Op, T>(from, Taps{s_.taps, time_.count}, together * s_.row,
                    s_.kept + (end_ - first_) * s_.row, AsItIs{});
    }
  }

  void gather(const S* from, S* to) const {
    for (int64_t w = 0; w < p_.w.in; ++w) {
      for (int64_t c = 0; c < p_.channels; ++c) *to++ = from[w * p_.x_w + c * p_.x_c];
    }
  }

  void scatter(S* out) const {
    const S* from = s_.result;
    for (int64_t w = 0; w < p_.w.out; ++w) {
      for (int64_t c = 0; c < p_.channels; ++c) out[w * p_.out_w + c * p_.out_c] = *from++;
    }
  }

  const PoolProblem& p_;
  const PoolRows& rows_;
  const Scratch<S, T> s_;
  const S* x_;
  const PoolAxis::Inside time_;
  const bool wide_;
  const bool pairs_;                          // of positions along W, at once
  int64_t first_ = 0, end_ = 0;               // the rows of x in s_.kept
  int64_t box_rows_ = 0, box_columns_ = 0;    // of the window in s_.taps
  int64_t frames_ = 1, frames_and_rows_ = 1;  // that count for the mean
  int64_t divided_by_ = 0;                    // what of these the divisors were made for
};

template <class Op, class S, class T>
PoolKernel pool_of() {
  return {[](const PoolProblem& problem) { return Scratch<S, T>(problem).bytes; },
          [](const PoolRows& rows) { Pool<Op, S, T>(rows).run(); }};
}

template <class S, class T>
PoolKernel pool_of(Pooling kind) {
  return kind == Pooling::max ? pool_of<Maximum<T>, S, T>() : pool_of<Sum<T>, S, T>();
}

}  // namespace

PoolKernel select_pool(DType dtype, Pooling kind) {
  switch (dtype) {
    case DType::f32:
      return pool_of<float, float>(kind);
    case DType::f64:
      return pool_of<double, double>(kind);
    case DType::bf16:
      return pool_of<bfloat16, float>(kind);
    case DType::u8:
      break;
  }
  return {};
}

}  // namespace marey::MAREY_ISA_NS
