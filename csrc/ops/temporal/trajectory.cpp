#include "ops/temporal/trajectory.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"
#include "core/parallel.h"

namespace marey {

MAREY_STUB_NO_BF16(select_trajectory, SelectTrajectory)

namespace {

constexpr std::string_view kName = "marey.gaussian";

// A displacement as a first pixel and the weights of it and the next three; whole ones need one.
struct Cubic {
  explicit Cubic(double displacement) {
    const double whole = std::floor(displacement);
    const double f = displacement - whole;
    first = whole;
    if (f == 0) return;
    used = 4;
    first -= 1;
    weight[0] = ((-0.5 * f + 1) * f - 0.5) * f;
    weight[1] = (1.5 * f - 2.5) * f * f + 1;
    weight[2] = ((-1.5 * f + 2) * f + 0.5) * f;
    weight[3] = (0.5 * f - 0.5) * f * f;
  }
  double first = 0;
  int used = 1;
  double weight[4] = {1, 0, 0, 0};
};

// Makes the list of frames for a row of the result.
class Paths {
 public:
  Paths(const View& x, const std::vector<double>& weights, const Window& window, double vy,
        double vx)
      : x_(x), weights_(weights), window_(window), vy_(vy), vx_(vx) {}

  // Returns the number of steps; those of a constant frame are added up in `constant`.
  int64_t list(int64_t t, int64_t r, TrajectoryStep* steps, double& constant) const {
    int64_t count = 0;
    constant = 0;
    for (int64_t j = 0; j < window_.size; ++j) {
      const double weight = weights_[static_cast<std::size_t>(j)];
      const int64_t s = source_step(t - window_.before + j, x_.shape[0], window_.boundary);
      if (s < 0) {
        constant += weight * window_.cval;
        continue;
      }
      const auto elapsed = static_cast<double>(s - t);
      steps[count++] = step(s, r, weight, Cubic(vy_ * elapsed), Cubic(vx_ * elapsed));
    }
    return count;
  }

 private:
  TrajectoryStep step(int64_t s, int64_t r, double weight, const Cubic& down,
                      const Cubic& across) const {
    TrajectoryStep result{};
    const auto height = static_cast<double>(x_.shape[1]);
    const auto width = static_cast<double>(x_.shape[2]);
    result.rows_used = down.used;
    result.columns_used = across.used;
    for (int a = 0; a < 4; ++a) {
      const double row = std::clamp(static_cast<double>(r) + down.first + a, 0.0, height - 1);
      result.rows[a] =
          x_.as<std::byte>() + s * x_.stride(0) + static_cast<int64_t>(row) * x_.stride(1);
      result.row_weights[a] = down.weight[a];
      result.column_weights[a] = weight * across.weight[a];
    }
    result.shift = static_cast<int64_t>(std::clamp(across.first, -width - 3, width + 3));
    return result;
  }

  const View& x_;
  const std::vector<double>& weights_;
  const Window& window_;
  double vy_;
  double vx_;
};

constexpr int64_t round_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

void trajectory_mean(const View& x, const std::vector<double>& weights, const Window& window,
                     double vy, double vx, const View& y) {
  if (x.ndim() < 3 || x.ndim() > 4) {
    throw ValueError(kName, "x", "shape (T, H, W) or (T, H, W, C) for a velocity",
                     to_string(x.shape));
  }
  if (!is_contiguous(x, 2, x.ndim())) {
    throw ValueError(kName, "x", "rows that are contiguous", "another layout");
  }
  if (!(std::isfinite(vy) && std::isfinite(vx))) {
    throw ValueError(kName, "velocity", "finite pixels a frame",
                     std::to_string(vy) + ", " + std::to_string(vx));
  }
  if (window.boundary == Boundary::wrap) {
    throw ValueError(kName, "mode", "'reflect', 'nearest', 'mirror' or 'constant' with a velocity",
                     "'wrap'");
  }
  check_window(kName, window, x, 0);
  if (x.shape.count() == 0) return;

  const int64_t channels = x.ndim() == 4 ? x.shape[3] : 1;
  const int64_t width = x.shape[2];
  const int64_t list_bytes = round_up(window.size * static_cast<int64_t>(sizeof(TrajectoryStep)));
  const int64_t bytes = list_bytes + (3 * width + 12) * channels * item_size(y.dtype);
  TrajectoryFn* run = select_trajectory_stub.get()(x.dtype, y.dtype);
  const Paths paths(x, weights, window, vy, vx);
  // All of time for a row before the next row: what they read overlaps in space and in time, and a
  // thread's share of it stays in the cache.
  parallel_for(
      x.shape[1], 1, static_cast<std::size_t>(bytes),
      [&](int64_t begin, int64_t end, std::byte* memory) {
        auto* steps = reinterpret_cast<TrajectoryStep*>(memory);
        for (int64_t r = begin; r < end; ++r) {
          for (int64_t t = 0; t < x.shape[0]; ++t) {
            double constant = 0;
            const int64_t count = paths.list(t, r, steps, constant);
            run({steps, count, width, channels, constant,
                 y.as<std::byte>() + t * y.stride(0) + r * y.stride(1), memory + list_bytes});
          }
        }
      });
}

}  // namespace marey
