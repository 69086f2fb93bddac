#include "ops/conv/pool_backward.h"

#include <algorithm>
#include <string>

#include "core/buffer.h"
#include "core/error.h"
#include "core/parallel.h"

namespace marey {

MAREY_STUB_NO_BF16(select_pool_grad, SelectPoolGrad)

namespace {

// Items of a frame's rows that one task is worth a thread for.
constexpr int64_t kGrain = int64_t{1} << 14;
constexpr int64_t kPlaceBytes = int64_t{64} << 20;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls pass(rows) with `t`, `begin` and `end` of bands of an axis pair of `frames` x `rows`, for
// `count` problems, whose number comes first.
template <class Pass>
void each_band(int64_t count, int64_t frames, int64_t rows, int64_t row_items, int64_t scratch,
               const Pass& pass) {
  const int64_t worth = ceil_div(kGrain, std::max<int64_t>(row_items, 1));
  const int64_t band = std::clamp<int64_t>(worth, 1, rows);
  const int64_t bands = ceil_div(rows, band);
  parallel_for(count * frames * bands, std::max<int64_t>(worth / band, 1),
               static_cast<std::size_t>(scratch),
               [&](int64_t begin, int64_t end, std::byte* memory) {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t first = task % bands * band;
                   PoolGradRows rows_of{};
                   rows_of.t = task / bands % frames;
                   rows_of.begin = first;
                   rows_of.end = std::min(first + band, rows);
                   rows_of.scratch = memory;
                   pass(task / bands / frames, rows_of);
                 }
               });
}

}  // namespace

void pool3d_backward(std::string_view function, const View& grad, const View* x,
                     const PoolOptions& options, const View& grad_x) {
  const bool maximum = options.kind == Pooling::max;
  const Shape expected = pool3d_shape(function, grad_x.shape, options);
  if (!(grad.shape == expected)) {
    throw ValueError(function, "grad", "shape " + to_string(expected), to_string(grad.shape));
  }
  check_pooled_types(function, grad, grad_x, grad_x.shape);
  if (grad_x.shape.count() == 0) return;
  if (maximum) check_pooled_types(function, *x, grad_x, x->shape);

  PoolProblem problem = pool_problem(grad_x, options, grad);
  // The maximum reads x with the strides of grad_x: where they differ, channels go one by one.
  PoolProblem of_x = maximum ? pool_problem(*x, options, grad) : problem;
  if (of_x.channels != problem.channels) {
    problem.channels = of_x.channels = 1;
  }
  for (PoolProblem* each : {&problem, &of_x}) {
    if (each->w.out == 1) each->w.stride = 1;  // one window has no next one
  }
  int64_t places = 1;
  for (const int64_t size : options.kernel) {
    if (maximum && size > kMostPlaces / places) {
      throw ValueError(function, "kernel", "at most 2**24 places",
                       std::to_string(size) + " x " + std::to_string(places) + " and more");
    }
    places *= maximum ? size : 1;
  }
  const PoolGradKernel kernel = select_pool_grad_stub.get()(grad.dtype, options.kind);
  const auto scratch = kernel.scratch_bytes(problem);
  const int64_t outer = grad_x.shape[1] / problem.channels;
  const int64_t count = grad_x.shape[0] * outer;
  const int64_t results = problem.t.out * problem.h.out * problem.w.out * problem.channels;
  const int64_t place_bytes = results * (grad.dtype == DType::f64 ? 8 : 4);
  const int64_t at_once =
      maximum ? std::clamp<int64_t>(kPlaceBytes / std::max<int64_t>(place_bytes, 1), 1, count)
              : count;
  const Buffer place = maximum ? Buffer(at_once * place_bytes) : Buffer();

  for (int64_t done = 0; done < count; done += at_once) {
    const int64_t some = std::min(at_once, count - done);
    const auto pass = [&](const PoolProblem& of, void (*run)(const PoolGradRows&)) {
      return [&, run](int64_t index, PoolGradRows rows) {
        const auto at = [&](const View& view) {
          return view.as<std::byte>() + (done + index) / outer * view.stride(0) +
                 (done + index) % outer * view.stride(1);
        };
        rows.problem = &of;
        rows.grad_t = grad.stride(2) / item_size(grad.dtype);
        rows.grad = at(grad);
        rows.grad_x = at(grad_x);
        if (maximum) {
          rows.x = at(*x);
          rows.place = place.data() + index * place_bytes;
        }
        run(rows);
      };
    };
    if (maximum && results != 0) {
      each_band(some, problem.t.out, problem.h.out,
                problem.w.out * problem.channels * problem.t.kernel * problem.h.kernel, scratch,
                pass(of_x, kernel.find));
    }
    each_band(some, problem.t.in, problem.h.in, problem.w.in * problem.channels, scratch,
              pass(problem, kernel.gather));
  }
}

}  // namespace marey
