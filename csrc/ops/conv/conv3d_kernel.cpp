// Direct convolution, an implicit matrix product: filters are lanes, positions along W are rows of
// register tiles (conv3d_tile.h), the depth runs over the taps and within a tap over the channels.
//
// A block of the output is computed from a window of the input, copied once into scratch as
// (T, H, W, channels) with the padding along W as zeros: whatever the layout in memory, the inputs
// of neighbouring taps along W and of all channels are then one contiguous run, 21 long for the
// three channels and seven columns of a stem. Taps that reach outside along T or H are left out.
// The sums of a row of positions come back through a transpose in registers where W is the
// contiguous axis of the output.
//
// With one tap along W and no padding there (temporal and pointwise layers), and positions side by
// side in memory, positions are the lanes instead and filters the rows of tiles, the weights being
// broadcast: nothing is transposed. Rows of the input are copied into panels as wide as a tile,
// each frame once, before the first frame of outputs that reads it, channel after channel as far as
// the block goes: channels lie pages apart, and to read two lines of each, panel by panel, took
// three times as long. Filters outermost, then panels: the reverse, whose panels would stay in the
// first-level cache, wrote to pages of all filters by turns and took a tenth longer. Each output is
// the same sum in the same order.
//
// To read channels that lie side by side where they are, instead of from a copy, took a quarter
// longer for 256 to 64 channels, 1x1x1: prefetchers follow the copy, and neither they nor prefetch
// instructions followed fourteen short rows at a time.
//
// In the second-level cache stand the window and the weights of one panel of filters, which serve
// all rows of the block; in the first the inputs of one row of tiles. Where channels times taps are
// too many for that, chunks of channels follow one another, and the sums wait in scratch.
#include "core/select.h"
#include "core/tile.h"
#include "ops/conv/activation.h"
#include "ops/conv/conv3d.h"
#include "ops/conv/conv3d_filters.h"
#include "ops/conv/conv3d_tile.h"
#if defined(__AMX_BF16__)
#include "ops/conv/conv3d_split.h"
#include "ops/conv/conv3d_tile_amx.h"
#endif
#include "ops/conv/conv3d_window.h"

namespace marey::MAREY_ISA_NS {
namespace {

// What the weights leave of the second-level cache.
constexpr int64_t kBlockBytes = int64_t{448} << 10;
constexpr double kCopyCost = 16.0;
constexpr int64_t kReadBehind = 32;

template <class S>
class Direct {
 public:
  using T = ItemOf<S>;
  using C = SumOf<T>;
  static constexpr int W = kLanesOf<T>;
  static constexpr int64_t kPanel = kConvVectors * W;
  static constexpr int64_t kPerItem = std::is_same_v<T, Pair> ? 2 : 1;
  static constexpr int64_t kOfTile = kTileFilters<T>;  // of rows

  // ---- weights: chunks of channels, in each panels of filters, in each (taps, depth, lanes) ----

  static int64_t depth(int64_t channels) { return padded_channels<T>(channels) / kPerItem; }
  static int64_t lanes_before(const ConvProblem& p, int64_t panel) {
    return at_most(panel * kPanel, round_up(p.filters, W));
  }
  static int64_t lanes_of(const ConvProblem& p, int64_t panel) {
    return lanes_before(p, panel + 1) - lanes_before(p, panel);
  }
  // From the start of the weights, in items of T; `first` channel of a chunk of so many.
  static int64_t weights_at(const ConvProblem& p, int64_t first, int64_t channels, int64_t panel) {
    return p.tap_count() *
           (depth(first) * round_up(p.filters, W) + depth(channels) * lanes_before(p, panel));
  }
  static int64_t packed_bytes(const ConvProblem& p) {
    return weights_at(p, p.channels, 0, 0) * static_cast<int64_t>(sizeof(T));
  }

  static void pack(const ConvProblem& p, const ConvWeights& w, int64_t first_panel,
                   int64_t last_panel, void* packed, std::byte*) {
    for (int64_t c = 0; c < p.channels; c += p.chunk) {
      const int64_t channels = at_most(p.chunk, p.channels - c);
      for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        auto* to = reinterpret_cast<StoredAs<S>*>(static_cast<T*>(packed) +
                                                  weights_at(p, c, channels, panel));
        const int64_t lanes = lanes_of(p, panel);
        for (int64_t lane = 0; lane < lanes; lane += W) {
          pack_filters<S>(p, w, c, channels, panel * kPanel + lane, lanes, to + lane * kPerItem);
        }
      }
    }
  }

  // For rows: of each panel the filters of a tile side by side, (tiles, taps, depth, filters). As
  // they lie packed a tile would touch a line of sixteen of them for each of the depth.
  static void pack_for_rows(const ConvProblem& p, const void* packed, int64_t first_panel,
                            int64_t last_panel, void* rows) {
    for (int64_t c = 0; c < p.channels; c += p.chunk) {
      const int64_t channels = at_most(p.chunk, p.channels - c);
      const int64_t items = p.tap_count() * depth(channels);
      for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        const int64_t lanes = lanes_of(p, panel);
        const T* from = static_cast<const T*>(packed) + weights_at(p, c, channels, panel);
        T* to = static_cast<T*>(rows) + weights_at(p, c, channels, panel);
        for (int64_t k = 0; k < items; ++k, from += lanes, to += kOfTile) {
          for (int64_t lane = 0; lane < lanes; lane += kOfTile) {
            std::memcpy(static_cast<void*>(to + lane * items), from + lane, kOfTile * sizeof(T));
          }
        }
      }
    }
  }

  // ---- a block ----

  static int64_t scratch(const ConvBlock& b) { return Direct(b).scratch_bytes_; }
  static void run(const ConvBlock& b) { Direct(b).run(); }

 private:
  explicit Direct(const ConvBlock& b) : b_(b), p_(*b.problem), place_(b) {
    chunk_ = at_most(p_.chunk, p_.channels);
    positions_ = b.end[2] - b.begin[2];
    rows_ = (b.end[0] - b.begin[0]) * (b.end[1] - b.begin[1]);
    several_ = p_.channels > p_.chunk;
    merged_ = contiguous(p_.taps[2]);
    first_lane_ = lanes_before(p_, b.first_panel);
    lanes_ = lanes_before(p_, b.last_panel) - first_lane_;
    const bool of_rows = p_.inputs == ConvInputs::rows;
    const int64_t width = of_rows ? round_up(positions_, W) : positions_;
    const int64_t kept =
        several_ ? rows_ * width * lanes_ : (of_rows ? kRowVectors * W * kOfTile : width * kPanel);
    const int64_t window =
        of_rows ? at_most(ring(), place_.time.extent) * place_.height.extent * row_pitch(chunk_)
                : place_.pixels() * depth(chunk_);
    // Tiles of AMX read whole blocks of rows, also behind the last position.
    const int64_t behind = kPerItem == 2 ? kReadBehind * place_.width.step : 0;
    ScratchParts parts(b.scratch);
    parts.take(taps_, p_.tap_count());
    parts.take(bias_, lanes_);
    parts.take(sums_, kept + W * kPanel);
    parts.take(window_, window + behind * depth(chunk_));
    scratch_bytes_ = parts.bytes();
  }

  void run() {
    if (rows_ <= 0 || positions_ <= 0) return;
    copy_bias(b_, first_lane_, lanes_, bias_);
    int64_t c = 0;
    do {  // once without channels, too
      first_channel_ = c;
      channels_ = at_most(p_.chunk, p_.channels - c);
      c += p_.chunk;
      const bool last = c >= p_.channels;
      if (p_.inputs == ConvInputs::rows) {
        sum_chunk_of_rows(first_channel_ == 0, last);
        continue;
      }
      place_.pack<S>(b_, first_channel_, channels_, padded_channels<T>(channels_),
                     reinterpret_cast<StoredAs<S>*>(window_));
      sum_chunk(first_channel_ == 0, last);
    } while (c < p_.channels);
  }

  // The weights after those of a panel of this chunk.
  const T* weights_after(int64_t panel) const {
    const T* const packed = static_cast<const T*>(b_.packed);
    if (panel + 1 < b_.last_panel) {
      return packed + weights_at(p_, first_channel_, channels_, panel + 1);
    }
    const int64_t first = first_channel_ + channels_;
    return packed + weights_at(p_, first, at_most(p_.chunk, p_.channels - first), b_.first_panel);
  }

  // A row of positions from the window.
  template <class Ahead>
  void sum_row(const ConvTile<T>* tiles, int64_t lanes, int64_t taps, int64_t depth_of_tap,
               int64_t stride, const T* weights, C* sums, bool accumulate,
               [[maybe_unused]] Ahead& ahead) const {
#if defined(__AMX_BF16__)
    if constexpr (kPerItem == 2) {
      if (tiles_active()) {
        const auto row = lanes == W ? conv_row_of_tiles<1> : conv_row_of_tiles<2>;
        return row(positions_, window_, stride, taps_, taps, depth_of_tap, weights, sums,
                   accumulate);
      }
    }
#endif
    conv_row(tiles, positions_, lanes, window_, stride, 1, taps_, taps, depth_of_tap, weights, sums,
             accumulate, ahead);
  }

  void sum_chunk(bool first, bool last) {
    static constexpr ConvTiles<T> kTiles;
    const int64_t pitch = depth(channels_);
    const int64_t run = merged_ ? p_.taps[2].count * pitch : pitch;
    const int64_t calls = rows_ * conv_tiles_of(positions_);
    InputsAhead inputs(b_, static_cast<int64_t>(sizeof(S)), run,
                       (b_.last_panel - b_.first_panel) * calls);
    for (int64_t panel = b_.first_panel; panel < b_.last_panel; ++panel) {
      const int64_t lanes = lanes_of(p_, panel);
      const int64_t lane = lanes_before(p_, panel) - first_lane_;
      const ConvTile<T>* tiles = kTiles.of[lanes / W - 1];
      const T* weights =
          static_cast<const T*>(b_.packed) + weights_at(p_, first_channel_, channels_, panel);
      C* sums = several_ ? sums_ + rows_ * positions_ * lane : sums_;
      StretchAhead next_weights(weights_after(panel),
                                p_.tap_count() * pitch * lanes * static_cast<int64_t>(sizeof(T)),
                                run, calls);
      for (int64_t t = b_.begin[0]; t < b_.end[0]; ++t) {
        for (int64_t h = b_.begin[1]; h < b_.end[1]; ++h) {
          const int64_t taps = place_.list_taps(b_, t, h, pitch, pitch * lanes, merged_, taps_);
          const int64_t stride = place_.width.step * pitch;
          if (several_) {
            sum_row(tiles, lanes, taps, run, stride, weights, sums, !first, next_weights);
          } else {
            sum_row(tiles, lanes, taps, run, stride, weights, sums, !first, inputs);
          }
          if (last) {
            finish_sums<C>(sums, positions_, lanes, b_.bias != nullptr ? bias_ + lane : nullptr,
                           b_.activation);
            S* to = static_cast<S*>(b_.out) + (first_lane_ + lane) * b_.out_strides.c +
                    t * b_.out_strides.s[0] + h * b_.out_strides.s[1] +
                    b_.begin[2] * b_.out_strides.s[2];
            unpack_pixels(sums, lanes, positions_, at_most(lanes, p_.filters - first_lane_ - lane),
                          to, b_.out_strides.c, b_.out_strides.s[2]);
          }
          if (several_) sums += positions_ * lanes;
        }
      }
    }
  }

  // ---- rows: positions are lanes ----

  // A row of panels, a line apart: a channel of all of them is written at once, and pages apart
  // they would have the same few lines of the first-level cache.
  static constexpr int64_t kApart = 64 / static_cast<int64_t>(sizeof(T));
  int64_t panels_of_row() const { return (positions_ + kRowVectors * W - 1) / (kRowVectors * W); }
  int64_t row_pitch(int64_t channels) const {
    return round_up(positions_, W) * depth(channels) + panels_of_row() * kApart;
  }
  int64_t row_pitch() const { return row_pitch(channels_); }
  // Frames of the window that a frame of outputs reads; the others take their places in turn.
  int64_t ring() const {
    const ConvTaps& taps = p_.taps[0];
    return taps.count > 1 ? taps.offset[taps.count - 1] - taps.offset[0] + 1 : 1;
  }

  // f(first position, vectors, where it begins) of the panels of a row, about equally wide.
  template <class F>
  [[gnu::always_inline]] void each_panel(const F& f) const {
    const int64_t vectors = (positions_ + W - 1) / W;
    const int64_t panels = panels_of_row();
    const int64_t narrow = vectors / panels;
    int64_t wider = vectors % panels;
    int64_t first = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < panels; ++i, --wider) {
      const int64_t wide = wider > 0 ? narrow + 1 : narrow;
      f(first, wide, at);
      first += wide * W;
      at += wide * W * depth(channels_) + kApart;
    }
  }

  // A frame that the block reads, each row as panels (depth, positions).
  [[gnu::flatten]] void pack_rows(int64_t index) {
    const FrameAt<S> frame = place_.frame<S>(b_, index);
    if (frame.data == nullptr) return;
    T* to = window_ + index % ring() * place_.height.extent * row_pitch();
    for (int64_t h = 0; h < place_.height.extent; ++h, to += row_pitch()) {
      const int64_t row = place_.height.first + h * place_.height.stride;
      if (row < 0 || row >= p_.in[1]) continue;
      const S* from = frame.data + row * frame.row + place_.width.first * frame.pixel +
                      first_channel_ * frame.channel;
      for (int64_t c = 0; c < channels_; c += kPerItem, from += kPerItem * frame.channel) {
        const S* const second = c + 1 < channels_ ? from + frame.channel : nullptr;
        each_panel([&](int64_t q, int64_t vectors, int64_t at) {
          T* panel = to + at + c / kPerItem * vectors * W;
          for (int64_t k = q; k < q + vectors * W; k += W, panel += W) {
            pack_vector(from + k, second == nullptr ? nullptr : second + k, frame.channel,
                        positions_ - k, panel);
          }
        });
      }
    }
  }

  // A vector of positions of one channel, or of two as pairs; null: there is no second. Fetches
  // what will be copied soon.
  static void pack_vector(const S* from, [[maybe_unused]] const S* second, int64_t stride,
                          int64_t count, T* to) {
    using V = Vec<C>;
    constexpr int64_t kChannelsAhead = 6 * kPerItem;
    __builtin_prefetch(from + kChannelsAhead * stride);
    const V low = load_first<V>(from, count);
    if constexpr (kPerItem == 2) {
      __builtin_prefetch(from + (kChannelsAhead + 1) * stride);
      const V high = second != nullptr ? load_first<V>(second, count) : V(C(0));
      using B = stdx::rebind_simd_t<uint32_t, V>;
      store(reinterpret_cast<uint32_t*>(to),
            (std::bit_cast<B>(low) >> 16) | std::bit_cast<B>(high));
    } else {
      store(to, low);
    }
  }

  void sum_chunk_of_rows(bool first, bool last) {
    C* sums = sums_;
    int64_t packed = 0;
    for (int64_t t = b_.begin[0]; t < b_.end[0]; ++t) {
      const int64_t seen = place_.time.extent - (b_.end[0] - 1 - t) * place_.time.step;
      for (; packed < seen; ++packed) pack_rows(packed);
      for (int64_t h = b_.begin[1]; h < b_.end[1]; ++h) {
        sums = sum_row_of_rows(t, h, sums, first, last);
      }
    }
  }

  // Sums of a row for all filters of the block; returns where those of the next go. The weights of
  // a tile stay in the first-level cache meanwhile.
  C* sum_row_of_rows(int64_t t, int64_t h, C* sums, bool first, bool last) {
    const int64_t pitch = depth(channels_);
    int64_t taps = 0;
    place_.each_row(b_, t, h, [&](int64_t i, int64_t j, int64_t, int64_t) {
      const int64_t row = place_.row_of(b_, t, h, i, j);
      const int64_t frame = row / place_.height.extent % ring();
      taps_[taps++] = {(frame * place_.height.extent + row % place_.height.extent) * row_pitch(),
                       (i * p_.taps[1].count + j) * pitch * kOfTile};
    });
    S* const to = static_cast<S*>(b_.out) + first_lane_ * b_.out_strides.c +
                  t * b_.out_strides.s[0] + h * b_.out_strides.s[1] + b_.begin[2];
    const int64_t filters = at_most(lanes_, p_.filters - first_lane_);
    const T* weights = static_cast<const T*>(b_.packed) +
                       weights_at(p_, first_channel_, channels_, b_.first_panel);
    for (int64_t k = 0; k < filters; k += kOfTile, weights += p_.tap_count() * pitch * kOfTile) {
      each_panel([&](int64_t q, int64_t vectors, int64_t at) {
        kRowsTiles<T>[vectors](window_ + at, taps_, taps, pitch, weights, sums, !first);
        if (last) {
          finish_rows<C>(sums, at_most(kOfTile, filters - k), vectors * W,
                         b_.bias != nullptr ? bias_ + k : nullptr, b_.activation,
                         at_most(vectors * W, positions_ - q), to + k * b_.out_strides.c + q,
                         b_.out_strides.c);
        }
        if (several_) sums += kOfTile * vectors * W;
      });
    }
    return sums;
  }

  const ConvBlock& b_;
  const ConvProblem& p_;
  WindowPlace place_;
  int64_t chunk_;
  int64_t positions_;  // of a row
  int64_t rows_;
  bool several_;  // chunks
  bool merged_;   // taps along W are one run
  int64_t first_lane_;
  int64_t lanes_;  // of all panels of the block
  int64_t first_channel_ = 0;
  int64_t channels_ = 0;  // of this chunk
  int64_t scratch_bytes_;
  TapAt* taps_ = nullptr;
  C* bias_ = nullptr;
  C* sums_ = nullptr;
  T* window_ = nullptr;
};

template <class S>
constexpr ConvKernel functions() {
  using D = Direct<S>;
  return {.panel = D::kPanel,
          // Of bfloat16, pairs of which are one product, whole tiles of AMX.
          .chunks = D::kPerItem == 2 ? ConvChunks{640, 1024, 32, 32} : ConvChunks{},
          .block_bytes = kBlockBytes,
          .copy_cost = kCopyCost,
          .copy_cost_of_rows = kCopyCost,
          .takes_rows = true,
          .packed_bytes = D::packed_bytes,
          .pack = D::pack,
          .pack_for_rows = D::pack_for_rows,
          .scratch = D::scratch,
          .run = D::run};
}

#if defined(__AMX_BF16__)
ConvKernel split_functions() {
  using D = SplitDirect;
  // Six products of tiles cost 0.375 of a multiply-add.
  return {.panel = D::kPanel,
          .columns = 64,
          .columns_of_rows = 64,
          .chunks = {2304, 1728, 32, 32},
          .block_bytes = int64_t{1} << 20,
          .product_cost = 0.375,
          .copy_cost = 20.0,
          .copy_cost_of_rows = 20.0,
          .weight_cost = 12.0,
          .takes_rows = true,
          .packed_bytes = D::packed_bytes,
          .pack = D::pack,
          .pack_scratch = D::pack_scratch,
          .scratch = D::scratch,
          .positions = D::positions,
          .run = D::run};
}
#endif

}  // namespace

ConvKernel select_conv3d_direct(DType dtype) {
  return of_type(dtype, []<class S>() { return functions<S>(); });
}

ConvKernel select_conv3d_direct_split([[maybe_unused]] DType dtype) {
#if defined(__AMX_BF16__)
  if (dtype == DType::f32 && tiles_active()) return split_functions();
#endif
  return {};
}

}  // namespace marey::MAREY_ISA_NS
