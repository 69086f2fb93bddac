#include "ops/temporal/sosfiltfilt.h"

#include "core/denormals.h"
#include "ops/temporal/series.h"
#include "ops/temporal/sosfilt.h"

namespace marey {
namespace {

constexpr int64_t kStagger = 16;  // items: a cache line of float32

// What all tiles of a call have in common.
struct Plan {
  int64_t steps;
  int64_t padlen;
  Extension extension;
  int64_t sections;
  const double* sos;
  const double* zi;
  SosfiltFn* run;       // from x
  SosfiltFn* run_same;  // from the type of the result
  int64_t stride;       // of scratch, in items

  int64_t extended() const { return steps + 2 * padlen; }
  int64_t scratch_rows() const { return extended() + 2 * sections; }
};

// A tile's extended signal, and the filter's state: rows of plan.stride items.
template <class S, class T>
class Pass {
 public:
  Pass(const Plan& plan, const SeriesTile& tile)
      : plan_(plan),
        tile_(tile),
        rows_(reinterpret_cast<T*>(tile.scratch)),
        z_(rows_ + plan.extended() * plan.stride) {}

  void forward() {
    extend();
    start(row(0));
    const int64_t n = plan_.padlen;
    run(row(0), plan_.stride, row(0), plan_.stride, n);
    plan_.run({tile_.in[0].data, row(n), tile_.in[0].stride, bytes(plan_.stride), plan_.steps,
               tile_.width, plan_.sos, plan_.sections, z_, plan_.stride, false});
    run(row(n + plan_.steps), plan_.stride, row(n + plan_.steps), plan_.stride, n);
  }

  // The part that the first extension would become is of no use.
  void backward() {
    const int64_t n = plan_.padlen;
    T* last = row(plan_.extended() - 1);
    start(last);
    run(last, -plan_.stride, last, -plan_.stride, n);
    plan_.run_same({row(n + plan_.steps - 1), tile_.out.row(plan_.steps - 1), -bytes(plan_.stride),
                    -tile_.out.stride, plan_.steps, tile_.width, plan_.sos, plan_.sections, z_,
                    plan_.stride, tile_.streaming});
  }

 private:
  T* row(int64_t t) const { return rows_ + t * plan_.stride; }
  static int64_t bytes(int64_t items) { return items * static_cast<int64_t>(sizeof(T)); }

  void run(const T* x, int64_t x_stride, T* y, int64_t y_stride, int64_t steps) {
    plan_.run_same({x, y, bytes(x_stride), bytes(y_stride), steps, tile_.width, plan_.sos,
                    plan_.sections, z_, plan_.stride, false});
  }

  // The steady state for a signal that has always been what `first` is.
  void start(const T* first) {
    for (int64_t r = 0; r < 2 * plan_.sections; ++r) {
      const T zi = static_cast<T>(plan_.zi[r]);
      for (int64_t k = 0; k < tile_.width; ++k) z_[r * plan_.stride + k] = zi * first[k];
    }
  }

  void extend() {
    const int64_t end = plan_.steps - 1;
    extend(0, 0, row(plan_.padlen));  // where the first pass starts if there is no extension
    for (int64_t k = 1; k <= plan_.padlen; ++k) {
      extend(0, k, row(plan_.padlen - k));
      extend(end, end - k, row(plan_.padlen + end + k));
    }
  }

  // The value that lies as far beyond step `edge` as step `inner` lies within.
  void extend(int64_t edge, int64_t inner, T* result) const {
    const S* a = reinterpret_cast<const S*>(tile_.in[0].row(edge));
    const S* b = reinterpret_cast<const S*>(tile_.in[0].row(inner));
    const auto fill = [&](const auto& value) {
      for (int64_t k = 0; k < tile_.width; ++k) {
        result[k] = value(static_cast<T>(a[k]), static_cast<T>(b[k]));
      }
    };
    switch (plan_.extension) {
      case Extension::odd:
        return fill([](T at_edge, T within) { return T{2} * at_edge - within; });
      case Extension::even:
        return fill([](T, T within) { return within; });
      case Extension::constant:
        return fill([](T at_edge, T) { return at_edge; });
    }
  }

  const Plan& plan_;
  const SeriesTile& tile_;
  T* rows_;
  T* z_;
};

template <class S, class T>
void filter(const Plan& plan, const SeriesTile& tile) {
  Pass<S, T> pass(plan, tile);
  pass.forward();
  pass.backward();
}

}  // namespace

void sosfiltfilt(const View& sos, const View& x, int axis, const View& y, Extension extension,
                 int64_t padlen, const View& zi) {
  const SteadySections checked = checked_sosfiltfilt(sos, x, axis, padlen, zi);
  const int64_t steps = x.shape[axis];
  Plan plan{steps,
            padlen,
            extension,
            sos.shape[0],
            checked.sos.data(),
            checked.zi.data(),
            sosfilt_kernel(x.dtype, y.dtype),
            sosfilt_kernel(y.dtype, y.dtype),
            0};
  const int64_t item = item_size(y.dtype);
  TileJob job({&x}, y, axis);
  job.width = cached_tile_width(plan.scratch_rows() * item, item);
  // Not a power of two: rows a page apart would share the same few places of the first-level cache.
  plan.stride = widest_tile(job) + kStagger;
  job.scratch_bytes = plan.scratch_rows() * plan.stride * item;
  for_each_tile(job, [&](const SeriesTile& tile) {
    const FlushDenormals flush;
    if (y.dtype == DType::f64) return filter<double, double>(plan, tile);
    x.dtype == DType::u8 ? filter<uint8_t, float>(plan, tile) : filter<float, float>(plan, tile);
  });
}

}  // namespace marey
