#pragma once
// Plans for the Fourier transforms inside kernels: lengths, factors and twiddle factors, computed
// once in float64. The transform itself, of many lines side by side in the lanes of vectors, is in
// core/fft_lanes.h.
#include <cstdint>
#include <memory>
#include <vector>

namespace marey {

inline constexpr int kLargestPrime = 31;

// What a kernel sees of a plan. Complex tables are pairs (re, im).
template <class T>
struct FftTable {
  int64_t length = 1;
  int depth = 0;                 // number of factors
  const int* factors = nullptr;  // outermost first; each 4, 8, or a prime up to kLargestPrime
  const T* const* twiddles =
      nullptr;  // by stage: w^(r k) for k < length / (factors so far), 0 < r < p
  const T* const* roots = nullptr;  // by stage: w_p^k, k < p
  // Bluestein's algorithm for lengths with another prime factor; else null. `inner` is then the
  // plan of a power of two >= 2 length - 1.
  const FftTable* inner = nullptr;
  const T* chirp = nullptr;           // exp(-i pi j^2 / length), j < length
  const T* chirp_spectrum = nullptr;  // the transform of its conjugate, over inner->length
};

template <class T>
class FftPlan {
 public:
  FftPlan() = default;
  // length >= 1
  explicit FftPlan(int64_t length);
  FftPlan(const FftPlan&) = delete;
  FftPlan& operator=(const FftPlan&) = delete;

  const FftTable<T>& table() const { return table_; }

 private:
  void plan_factors();
  void plan_bluestein();

  FftTable<T> table_;
  std::vector<int> factors_;
  std::vector<std::vector<T>> twiddles_;
  std::vector<std::vector<T>> roots_;
  std::vector<const T*> twiddle_pointers_;
  std::vector<const T*> root_pointers_;
  std::vector<T> chirp_;
  std::vector<T> chirp_spectrum_;
  std::unique_ptr<FftPlan> inner_;
};

// How many complex lines of length `length` a transform needs as scratch.
template <class T>
constexpr int64_t fft_scratch_length(const FftTable<T>& table) {
  return table.inner == nullptr ? table.length : 2 * table.inner->length;
}

extern template class FftPlan<float>;
extern template class FftPlan<double>;

}  // namespace marey
