// What attention demands of its arguments, on every device.
#include <cmath>
#include <string>
#include <utility>

#include "core/error.h"
#include "ops/attention/operands.h"

namespace marey {
namespace {

std::string with_batch(const View& q, std::string_view rest) {
  std::string text = "(";
  for (int axis = 0; axis < q.ndim() - 3; ++axis) text += std::to_string(q.shape[axis]) + ", ";
  return text + std::string(rest) + ")";
}

}  // namespace

void check_shape(std::string_view function, const char* argument, const View& x, const View& q,
                 std::initializer_list<int64_t> last, std::string_view letters) {
  bool fits = x.ndim() == q.ndim() - 3 + static_cast<int>(last.size());
  for (int axis = 0; fits && axis < q.ndim() - 3; ++axis) fits = x.shape[axis] == q.shape[axis];
  int axis = q.ndim() - 3;
  if (fits) {
    for (int64_t extent : last) {
      fits = fits && (extent < 0 || x.shape[axis] == extent);
      ++axis;
    }
  }
  if (!fits) {
    throw ValueError(function, argument,
                     with_batch(q, letters) + " for q of shape " + to_string(q.shape),
                     to_string(x.shape));
  }
}

void check_attention(std::string_view function, const View& q, const View& k, const View& v,
                     const View* mask, const View* bias, const AttentionOptions& options,
                     const View& out, const View* lse) {
  if (q.ndim() < 3) {
    throw ValueError(function, "q", "shape (..., h, L, D)", to_string(q.shape));
  }
  if (q.dtype == DType::u8) {
    throw TypeError(function, "q", "float32, float64 or bfloat16", name(q.dtype));
  }
  const int axis = q.ndim() - 3;
  const int64_t heads = q.shape[axis];
  const int64_t queries = q.shape[axis + 1];
  const int64_t depth = q.shape[axis + 2];
  check_shape(function, "k", k, q, {-1, -1, depth}, "h_kv, S, " + std::to_string(depth));
  const int64_t key_heads = k.shape[axis];
  const int64_t keys = k.shape[axis + 1];
  check_shape(function, "v", v, q, {key_heads, keys, -1},
              std::to_string(key_heads) + ", " + std::to_string(keys) + ", Dv");
  if (key_heads == 0 ? heads != 0 : heads % key_heads != 0) {
    throw ValueError(function, "k",
                     "a number of heads that divides the " + std::to_string(heads) + " of q",
                     std::to_string(key_heads));
  }
  for (const auto& [argument, view] : {std::pair{"k", &k}, {"v", &v}, {"out", &out}}) {
    if (view->dtype != q.dtype)
      throw TypeError(function, argument, name(q.dtype), name(view->dtype));
  }
  const DType computed = compute_type(q.dtype);
  const std::string scores = std::to_string(heads) + ", " + std::to_string(queries);
  if (mask != nullptr) {
    if (mask->dtype != DType::u8) throw TypeError(function, "mask", "bool", name(mask->dtype));
    check_shape(function, "mask", *mask, q, {heads, queries, keys},
                scores + ", " + std::to_string(keys));
  }
  if (bias != nullptr) {
    if (bias->dtype != computed)
      throw TypeError(function, "bias", name(computed), name(bias->dtype));
    check_shape(function, "bias", *bias, q, {heads, queries, keys},
                scores + ", " + std::to_string(keys));
  }
  check_shape(function, "out", out, q, {heads, queries, v.shape[axis + 2]},
              scores + ", " + std::to_string(v.shape[axis + 2]));
  if (lse != nullptr) {
    if (lse->dtype != computed) throw TypeError(function, "lse", name(computed), name(lse->dtype));
    check_shape(function, "lse", *lse, q, {heads, queries}, scores);
  }
  if (!std::isfinite(options.scale)) {
    throw ValueError(function, "scale", "a finite number", std::to_string(options.scale));
  }
  if (!std::isfinite(options.softcap) || options.softcap < 0) {
    throw ValueError(function, "softcap", "a positive number", std::to_string(options.softcap));
  }
  if (options.left < 0 || options.right < 0) {
    throw ValueError(
        function, "window", "numbers of keys, 0 or more",
        "(" + std::to_string(options.left) + ", " + std::to_string(options.right) + ")");
  }
  if (options.limited() && options.alignment == Alignment::square && queries != keys) {
    throw ValueError(function, "causal",
                     "'top_left' or 'bottom_right' to say how " + std::to_string(queries) +
                         " queries stand to " + std::to_string(keys) + " keys",
                     "neither");
  }
}

}  // namespace marey
