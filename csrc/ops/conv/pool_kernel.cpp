// A window is a box, and both the maximum and the sum over a box are those along time of those
// along height of those along width: kT + kH + kW steps for an item instead of their product. Along
// time and height vectors run over whole rows (W positions, in NTHWC with all their channels), the
// same for every layout. Rows reduced along time are kept while windows of the next rows of the
// result need them, as many at once as the first-level cache has room for, so that the small frames
// of deep layers are reduced in one run. Along width a row stands between margins of -inf or 0, so
// that no window has an edge; it is reduced at every position, and if C is 1 every stride-th one is
// picked out after that, since vectors of neighbours cost less than gathered ones.
//
// At most 24 KiB of rows, because those of x that they are made of want room in the cache as well.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "core/tile.h"
#include "ops/conv/pool.h"

namespace marey::MAREY_ISA_NS {
namespace {

constexpr int64_t kKeptBytes = 24 << 10;
constexpr int64_t kAlignment = 64;

// Rows of scratch end with room for a vector.
template <class T>
int64_t row_bytes(int64_t items) {
  return (items * static_cast<int64_t>(sizeof(T)) + 2 * kAlignment - 1) / kAlignment * kAlignment;
}

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

template <class V, class S>
V load_some(const S* p, int64_t count) {
  alignas(kAlignment) S lanes[V::size()] = {};
  std::memcpy(lanes, p, static_cast<std::size_t>(count) * sizeof(S));
  return load_as<V>(lanes);
}

template <class D, class V>
void store_some(D* p, const V& v, int64_t count) {
  alignas(kAlignment) D lanes[V::size()];
  store_as(lanes, v);
  std::memcpy(p, lanes, static_cast<std::size_t>(count) * sizeof(D));
}

// out[f] = finish(the join of from[f], from[f + step], ...: n > 0 of them), for f < count. The last
// vector overlaps the one before, so that nothing beyond the rows is touched.
template <class Op, class T, class S, class D, class Finish>
void reduce(const S* from, int64_t step, int64_t n, int64_t count, D* out, const Finish& finish) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  constexpr int kUnrolled = 4;
  int64_t f = 0;
  for (; f + kUnrolled * kLanes <= count; f += kUnrolled * kLanes) {
    V sum[kUnrolled];
    const S* p = from + f;
    for (int u = 0; u < kUnrolled; ++u) sum[u] = load_as<V>(p + u * kLanes);
    for (int64_t i = 1; i < n; ++i) {
      p += step;
      for (int u = 0; u < kUnrolled; ++u) sum[u] = Op::join(sum[u], load_as<V>(p + u * kLanes));
    }
    for (int u = 0; u < kUnrolled; ++u) {
      store_as(out + f + u * kLanes, finish(sum[u], f + u * kLanes));
    }
  }
  while (f < count) {
    if (count < kLanes) {
      V sum = load_some<V>(from, count);
      for (int64_t i = 1; i < n; ++i) sum = Op::join(sum, load_some<V>(from + i * step, count));
      store_some(out, finish(sum, 0), count);
      return;
    }
    f = std::min(f, count - kLanes);
    V sum = load_as<V>(from + f);
    for (int64_t i = 1; i < n; ++i) sum = Op::join(sum, load_as<V>(from + i * step + f));
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

// out[q] = finish(from[stride q]) for q < count. Reads a vector beyond the last.
template <class T, class D, class Finish>
void pick(const T* from, int64_t stride, int64_t count, D* out, const Finish& finish) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  for (int64_t q = 0; q < count; q += kLanes) {
    V v;
    if (stride == 2 && q + kLanes <= count) {
      const T* p = from + 2 * q;
      v = even_lanes(load<V>(p), load<V>(p + kLanes),
                     std::make_integer_sequence<int, static_cast<int>(V::size())>{});
    } else {
      alignas(kAlignment) T lanes[V::size()] = {};
      const int64_t end = std::min(kLanes, count - q);
      for (int64_t k = 0; k < end; ++k) lanes[k] = from[(q + k) * stride];
      v = load<V>(lanes);
    }
    v = finish(v, q);
    if (q + kLanes <= count) {
      store_as(out + q, v);
    } else {
      store_some(out + q, v, count - q);
    }
  }
}

// The scratch of a thread: what lies in it, and how large it is.
template <class S, class T>
struct Scratch {
  explicit Scratch(const PoolProblem& p, std::byte* memory = nullptr)
      : row(p.w.in * p.channels),
        before(p.w.before * p.channels),
        beyond(
            std::max<int64_t>((p.w.out - 1) * p.w.stride + p.w.extent() - p.w.before - p.w.in, 0) *
            p.channels),
        rows(keeps(p) ? std::clamp(kKeptBytes /
                                       std::max<int64_t>(row * static_cast<int64_t>(sizeof(T)), 1),
                                   std::min(2 * p.h.extent(), p.h.in), p.h.in)
                      : 0) {
    const auto take = [&](int64_t size) {
      std::byte* at = memory == nullptr ? nullptr : memory + bytes;
      bytes += size;
      return at;
    };
    const int64_t out_row = p.w.out * p.channels;
    kept = reinterpret_cast<T*>(take(row_bytes<T>(rows * row)));
    margined = reinterpret_cast<T*>(take(row_bytes<T>(before + row + beyond)));
    everywhere = reinterpret_cast<T*>(take(row_bytes<T>(before + row + beyond)));
    divisors = reinterpret_cast<T*>(take(row_bytes<T>(out_row)));
    gathered = reinterpret_cast<S*>(take(p.x_in_rows() ? 0 : row_bytes<S>(p.t.kernel * row)));
    result = reinterpret_cast<S*>(take(p.out_in_rows() ? 0 : row_bytes<S>(out_row)));
  }

  // Whether rows are reduced along time into scratch first.
  static bool keeps(const PoolProblem& p) {
    return !p.x_in_rows() || (p.t.kernel > 1 && p.h.kernel > 1);
  }

  int64_t row, before, beyond;  // items
  int64_t rows;                 // that `kept` has room for
  int64_t bytes = 0;
  T* kept;        // rows of x, reduced along time
  T* margined;    // a row reduced along height too, between margins
  T* everywhere;  // that reduced along width at every position
  T* divisors;    // of a row of the result
  S* gathered;    // rows of x
  S* result;      // a row of the result that goes to scattered places
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
        wide_(!p_.w.trivial()) {
    std::fill_n(s_.margined, s_.before, Op::kNothing);
    std::fill_n(s_.margined + s_.before + s_.row, s_.beyond, Op::kNothing);
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
    if (time_.count == 0 || height.count == 0) {
      for (int64_t f = 0; f < p_.w.out * p_.channels; ++f) assign(out[f], Op::kNothing);
      return;
    }
    if constexpr (Op::kDivides) {
      frames_and_rows_ = std::max<int64_t>(p_.t.counted(rows_.t, p_.count_include_pad), 1) *
                         std::max<int64_t>(p_.h.counted(h, p_.count_include_pad), 1);
    }
    if (s_.rows != 0) {
      keep(height.first, height.first + (height.count - 1) * p_.h.dilation + 1);
      rest(s_.kept + (height.first - first_) * s_.row, p_.h.dilation * s_.row, height.count, out);
    } else {
      const S* from = x_ + time_.first * p_.x_t + height.first * p_.x_h;
      if (p_.t.kernel > 1) {
        rest(from, p_.t.dilation * p_.x_t, time_.count, out);
      } else {
        rest(from, p_.h.dilation * p_.x_h, height.count, out);
      }
    }
  }

  // From rows that remain to be reduced along height (or time, where that has one step).
  template <class From>
  void rest(const From* from, int64_t step, int64_t n, S* out) {
    if (!wide_) {
      if constexpr (Op::kDivides) {
        const DividedBy<T> finish{Vec<T>(static_cast<T>(frames_and_rows_))};
        reduce<Op, T>(from, step, n, s_.row, out, finish);
      } else {
        reduce<Op, T>(from, step, n, s_.row, out, AsItIs{});
      }
      return;
    }
    reduce<Op, T>(from, step, n, s_.row, s_.margined + s_.before, AsItIs{});
    const int64_t C = p_.channels;
    if (C > 1 && p_.w.stride > 1) return each_place(out);
    if constexpr (Op::kDivides) {
      set_divisors();
      along_width(out, DividedByRow<T>{s_.divisors});
    } else {
      along_width(out, AsItIs{});
    }
  }

  template <class Finish>
  void along_width(S* out, const Finish& finish) {
    const int64_t step = p_.w.dilation * p_.channels;
    if (p_.w.stride == 1) {
      reduce<Op, T>(s_.margined, step, p_.w.kernel, p_.w.out * p_.channels, out, finish);
      return;
    }
    reduce<Op, T>(s_.margined, step, p_.w.kernel, (p_.w.out - 1) * p_.w.stride + 1, s_.everywhere,
                  AsItIs{});
    pick(s_.everywhere, p_.w.stride, p_.w.out, out, finish);
  }

  void each_place(S* out) {
    const int64_t C = p_.channels;
    for (int64_t w = 0; w < p_.w.out; ++w) {
      const T* from = s_.margined + w * p_.w.stride * C;
      if constexpr (Op::kDivides) {
        const int64_t counted =
            frames_and_rows_ * std::max<int64_t>(p_.w.counted(w, p_.count_include_pad), 1);
        const DividedBy<T> finish{Vec<T>(static_cast<T>(counted))};
        reduce<Op, T>(from, p_.w.dilation * C, p_.w.kernel, C, out + w * C, finish);
      } else {
        reduce<Op, T>(from, p_.w.dilation * C, p_.w.kernel, C, out + w * C, AsItIs{});
      }
    }
  }

  void set_divisors() {
    if (frames_and_rows_ == divided_by_) return;
    divided_by_ = frames_and_rows_;
    for (int64_t w = 0; w < p_.w.out; ++w) {
      const int64_t counted =
          frames_and_rows_ * std::max<int64_t>(p_.w.counted(w, p_.count_include_pad), 1);
      std::fill_n(s_.divisors + w * p_.channels, p_.channels, static_cast<T>(counted));
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
      int64_t step = p_.t.dilation * p_.x_t;
      if (!in_rows) {
        for (int64_t i = 0; i < time_.count; ++i) gather(from + i * step, s_.gathered + i * s_.row);
        from = s_.gathered;
        step = s_.row;
      }
      reduce<Op, T>(from, step, time_.count, together * s_.row, s_.kept + (end_ - first_) * s_.row,
                    AsItIs{});
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
  int64_t first_ = 0, end_ = 0;  // the rows of x in s_.kept
  int64_t frames_and_rows_ = 1;  // that count for the mean
  int64_t divided_by_ = 0;       // what of these the divisors were made for
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

// Vectors whose sums are carried on in float64 after that many additions, so that the error grows
// with the root of their number only.
constexpr int64_t kBlock = 32;

template <class V>
void add_to(double* sum, const V& v, int64_t count) {
  alignas(kAlignment) typename V::value_type lanes[V::size()];
  store(lanes, v);
  for (int64_t k = 0; k < count; ++k) sum[k] += static_cast<double>(lanes[k]);
}

template <class S, class T>
void sum_lanes(const void* x, int64_t count, int64_t pitch, int64_t lanes, double* sum) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  constexpr int kSide = 4;
  const S* from = static_cast<const S*>(x);
  for (int64_t first = 0; first < count; first += kBlock) {
    const S* block = from + first * pitch;
    const int64_t rows = std::min(kBlock, count - first);
    int64_t lane = 0;
    for (; lane + kSide * kLanes <= lanes; lane += kSide * kLanes) {
      V total[kSide] = {};
      for (int64_t i = 0; i < rows; ++i) {
        const S* p = block + i * pitch + lane;
        for (int k = 0; k < kSide; ++k) total[k] += load_as<V>(p + k * kLanes);
      }
      for (int k = 0; k < kSide; ++k) add_to(sum + lane + k * kLanes, total[k], kLanes);
    }
    for (; lane < lanes; lane += kLanes) {
      const int64_t some = std::min(kLanes, lanes - lane);
      V total = 0;
      for (int64_t i = 0; i < rows; ++i) {
        const S* p = block + i * pitch + lane;
        total += some == kLanes ? load_as<V>(p) : load_some<V>(p, some);
      }
      add_to(sum + lane, total, some);
    }
  }
}

template <class S, class T>
void sum_run(const void* x, int64_t count, double* sum) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  constexpr int kSide = 4;
  double lanes[V::size()] = {};
  const S* from = static_cast<const S*>(x);
  int64_t k = 0;
  while (k < count) {
    V total[kSide] = {};
    const int64_t end = std::min(count, k + kBlock * kSide * kLanes);
    for (; k + kSide * kLanes <= end; k += kSide * kLanes) {
      for (int u = 0; u < kSide; ++u) total[u] += load_as<V>(from + k + u * kLanes);
    }
    for (; k + kLanes <= end; k += kLanes) total[0] += load_as<V>(from + k);
    if (k < end && end == count) {
      total[1] += load_some<V>(from + k, end - k);
      k = end;
    }
    add_to(lanes, (total[0] + total[1]) + (total[2] + total[3]), kLanes);
  }
  for (const double lane : lanes) *sum += lane;
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

SumKernel select_sum(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return {sum_lanes<float, float>, sum_run<float, float>};
    case DType::f64:
      return {sum_lanes<double, double>, sum_run<double, double>};
    case DType::bf16:
      return {sum_lanes<bfloat16, float>, sum_run<bfloat16, float>};
    case DType::u8:
      break;
  }
  return {};
}

}  // namespace marey::MAREY_ISA_NS
