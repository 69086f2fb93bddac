#pragma once
// Weights as lanes of filters, for kernel files.
#include "ops/conv/conv3d_window.h"

namespace marey::MAREY_ISA_NS {

// True if the taps of a filter and channel lie in one contiguous run that the problem takes all
// of.
inline bool taps_in_one_run(const ConvProblem& p, const ConvWeights& w) {
  int64_t expected = 1;
  for (int axis = 2; axis >= 0; --axis) {
    const ConvTaps& taps = p.taps[static_cast<std::size_t>(axis)];
    if (taps.count == 1) {
      if (taps.source[0] != 0) return false;
      continue;
    }
    if (w.tap[static_cast<std::size_t>(axis)] != expected) return false;
    for (int64_t i = 0; i < taps.count; ++i) {
      const bool rising = taps.source[0] == 0;
      if (taps.source[i] != (rising ? i : taps.count - 1 - i)) return false;
    }
    expected *= taps.count;
  }
  return true;
}

// Where the tap at an index of memory stands in the order of the problem.
struct TapOrder {
  Triple count;
  bool falling[3];
  int64_t operator()(int64_t index) const {
    const int64_t l = index % count[2];
    const int64_t j = index / count[2] % count[1];
    const int64_t i = index / (count[2] * count[1]);
    const auto turn = [&](int axis, int64_t x) {
      return falling[axis] ? count[static_cast<std::size_t>(axis)] - 1 - x : x;
    };
    return (turn(0, i) * count[1] + turn(1, j)) * count[2] + turn(2, l);
  }
};

// Squares of W filters and W neighbours in memory, transposed.
template <class S, class T>
void pack_filters_of_one_run(const ConvProblem& p, const ConvWeights& w, int64_t channels,
                             int64_t count, int64_t lanes, const S* from, T* to) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  const int64_t taps = p.tap_count();
  TapOrder order{};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    order.count[axis] = p.taps[axis].count;
    order.falling[axis] = p.taps[axis].source[0] != 0;
  }
  const bool one_run = w.channel == taps;
  const int64_t run = one_run ? channels * taps : taps;
  for (int64_t first = 0; first < channels; first += run / taps) {
    const S* row = from + first * w.channel;
    for (int64_t k = 0; k < run; k += W) {
      const int64_t rows = at_most(W, run - k);
      V square[W];
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) {
        square[j] = j < count ? load_first<V>(row + j * w.filter + k, rows) : V(T(0));
      }
      transpose<T>(square);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t c = first + (k + i) / taps;
        const int64_t tap = order((k + i) % taps);
        store(to + (tap * channels + c) * lanes, square[i]);
      }
    }
  }
}

// One vector of filters from `filter` on: to[((tap * depth + channel) * lanes + lane)].
template <class S>
[[gnu::flatten]] void pack_filters(const ConvProblem& p, const ConvWeights& w, int64_t first,
                                   int64_t channels, int64_t filter, int64_t lanes,
                                   StoredAs<S>* to) {
  using T = ItemOf<S>;
  constexpr int W = kLanesOf<T>;
  constexpr int64_t kPerItem = std::is_same_v<T, Pair> ? 2 : 1;
  const int64_t depth = padded_channels<T>(channels) / kPerItem;
  const int64_t count = at_most(W, p.filters - filter);
  const S* const from = static_cast<const S*>(w.data) + filter * w.filter + first * w.channel;
  const int64_t taps = p.tap_count();
  const int64_t tap_pitch = depth * lanes * kPerItem;
  if constexpr (kPerItem == 1) {
    if (taps_in_one_run(p, w) && taps > 1) {
      return pack_filters_of_one_run(p, w, channels, count, lanes, from, to);
    }
  }
  int64_t tap = 0;
  for (int64_t i = 0; i < p.taps[0].count; ++i) {
    for (int64_t j = 0; j < p.taps[1].count; ++j) {
      for (int64_t l = 0; l < p.taps[2].count; ++l, ++tap) {
        const S* at = from + p.taps[0].source[i] * w.tap[0] + p.taps[1].source[j] * w.tap[1] +
                      p.taps[2].source[l] * w.tap[2];
        for (int64_t c = 0; c < depth * kPerItem; ++c) {
          auto* row = to + tap * tap_pitch + c / kPerItem * lanes * kPerItem + c % kPerItem;
          for (int64_t k = 0; k < W; ++k) {
            const S x = c < channels && k < count ? at[k * w.filter + c * w.channel] : S{};
            row[k * kPerItem] = convert<StoredAs<S>>(x);
          }
        }
      }
    }
  }
}

}  // namespace marey::MAREY_ISA_NS
