#include "ops/conv/conv3d_causal.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "core/buffer.h"

namespace marey {

// Slots for frames, as much as two states need that share none.
class FrameStore {
 public:
  FrameStore(const View& past, bool channels_last);

  // Those of a state that lies here, in the layout of this store.
  FrameSlots slots_of(const View& past) const;
  // Free ones that a state may take after `past` and `fresh` more frames, whose other frames it
  // has.
  FrameSlots after(const FrameSlots& past, int64_t fresh, bool backwards);
  // Free ones for a whole state.
  FrameSlots find_free();
  void take(const FrameSlots& slots) {
    for (int64_t i = 0; i < frames_; ++i) ++states_of(slots.first + i * slots.step);
  }
  void give_back(const FrameSlots& slots) {
    for (int64_t i = 0; i < frames_; ++i) --states_of(slots.first + i * slots.step);
  }

  const std::byte* begin() const { return memory_.data(); }
  const std::byte* end() const { return memory_.data() + memory_.bytes(); }
  View view(const FrameSlots& slots) const {
    View state = state_;
    state.data = memory_.data() + slots.first * state_.stride(2);
    state.stride(2) *= slots.step;
    return state;
  }

 private:
  int& states_of(int64_t slot) { return states_[static_cast<std::size_t>(slot)]; }
  int64_t size() const { return static_cast<int64_t>(states_.size()); }

  View state_;  // at slot 0
  int64_t frames_;
  std::vector<int> states_;  // of each slot: how many have it
  Buffer memory_;
};

namespace {

// All stores that states lie in. The mutex guards them, too: they are busy for a short while only.
struct Stores {
  std::mutex mutex;
  std::map<const std::byte*, std::weak_ptr<FrameStore>> by_memory;

  std::shared_ptr<FrameStore> with(const void* memory) const {
    const auto* const at = static_cast<const std::byte*>(memory);
    auto behind = by_memory.upper_bound(at);
    if (behind == by_memory.begin()) return nullptr;
    std::shared_ptr<FrameStore> store = std::prev(behind)->second.lock();
    return store != nullptr && at < store->end() ? store : nullptr;
  }
};

// Never destroyed: states may be freed while the process exits.
Stores& stores() {
  static auto* const all = new Stores;
  return *all;
}

}  // namespace

FrameStore::FrameStore(const View& past, bool channels_last)
    : state_(past),
      frames_(past.shape[2]),
      states_(static_cast<std::size_t>(2 * frames_), 0),
      memory_(2 * past.shape.count() * item_size(past.dtype)) {
  int64_t stride = item_size(past.dtype);
  using Order = std::array<int, 5>;
  for (const int axis : channels_last ? Order{1, 4, 3, 0, 2} : Order{4, 3, 1, 0, 2}) {
    state_.stride(axis) = stride;
    stride *= past.shape[axis];
  }
  state_.data = memory_.data();
}

FrameSlots FrameStore::slots_of(const View& past) const {
  if (past.dtype != state_.dtype || !(past.shape == state_.shape)) return {};
  for (const int axis : {0, 1, 3, 4}) {
    if (past.shape[axis] != 1 && past.stride(axis) != state_.stride(axis)) return {};
  }
  const int64_t frame = state_.stride(2);
  const int64_t bytes = past.as<const std::byte>() - begin();
  const int64_t apart = frames_ > 1 ? past.stride(2) : frame;
  if (bytes % frame != 0 || apart % frame != 0) return {};
  const FrameSlots slots{bytes / frame, apart / frame};
  const int64_t last = slots.first + (frames_ - 1) * slots.step;
  return last >= 0 && last < size() ? slots : FrameSlots{};
}

FrameSlots FrameStore::after(const FrameSlots& past, int64_t fresh, bool backwards) {
  if (fresh == 0) return past;
  if (fresh >= frames_) return {};
  const int64_t first = past.first + fresh * past.step;
  if (frames_ == 2) {
    for (int64_t i = backwards ? 0 : first + 1; i < size(); ++i) {
      if (states_of(i) == 0) return {first, i - first};
    }
    return {};
  }
  if (past.step != 1 || first + frames_ > size()) return {};
  for (int64_t i = past.first + frames_; i < first + frames_; ++i) {
    if (states_of(i) != 0) return {};
  }
  return {first, 1};
}

FrameSlots FrameStore::find_free() {
  int64_t free = 0;
  for (int64_t i = 0; i < size(); ++i) {
    free = states_of(i) == 0 ? free + 1 : 0;
    if (free == frames_) return {i + 1 - frames_, 1};
  }
  return {};
}

KeptFrames::KeptFrames(const View& past, int64_t fresh, bool channels_last, bool backwards) {
  const std::lock_guard lock(stores().mutex);
  if (const auto old = stores().with(past.data); old != nullptr) {
    if (const FrameSlots slots = old->slots_of(past); slots.first >= 0) {
      slots_ = old->after(slots, fresh, backwards);
      if (slots_.first >= 0) {
        in_place_ = past.shape[2] - fresh;
      } else {
        slots_ = old->find_free();
      }
      if (slots_.first >= 0) store_ = old;
    }
  }
  if (store_ == nullptr) {
    store_ = std::make_shared<FrameStore>(past, channels_last);
    slots_ = {0, 1};
    stores().by_memory[store_->begin()] = store_;
  }
  store_->take(slots_);
  view_ = store_->view(slots_);
}

KeptFrames::~KeptFrames() {
  const std::lock_guard lock(stores().mutex);
  store_->give_back(slots_);
  if (store_.use_count() == 1) stores().by_memory.erase(store_->begin());
  store_.reset();
}

FrameCopy::FrameCopy(const View& from, const View& to) : item_(item_size(from.dtype)) {
  for (const int axis : {0, 1, 3, 4}) {
    if (to.shape[axis] == 1) continue;
    const Axis axis_here{to.shape[axis], from.stride(axis), to.stride(axis), axis >= 3};
    std::size_t at = count_++;
    for (; at > 0 && std::abs(axes_[at - 1].to) < std::abs(axis_here.to); --at) {
      axes_[at] = axes_[at - 1];
    }
    axes_[at] = axis_here;
  }
  // Neighbours that are one run in both.
  std::size_t merged = 0;
  for (std::size_t i = 1; i < count_; ++i) {
    Axis& outer = axes_[merged];
    const Axis& inner = axes_[i];
    const bool one_run =
        outer.from == inner.from * inner.extent && outer.to == inner.to * inner.extent;
    if (one_run && (outer.in_space || !inner.in_space)) {
      outer = {outer.extent * inner.extent, inner.from, inner.to, inner.in_space};
    } else {
      axes_[++merged] = inner;
    }
  }
  count_ = std::min(count_, merged + 1);
  if (count_ > 0) row_ = axes_[--count_];
  for (std::size_t i = 0; i < count_; ++i) rows_ *= axes_[i].extent;
}

void FrameCopy::pieces(int64_t begin, int64_t end, int64_t of, const std::byte* from,
                       std::byte* to) const {
  const int64_t first = row_.extent * begin / of;
  const int64_t items = row_.extent * end / of - first;
  for (int64_t i = 0; i < rows_; ++i) row(i, first, items, from, to);
}

void FrameCopy::row(int64_t index, int64_t first, int64_t items, const std::byte* from,
                    std::byte* to) const {
  from += first * row_.from;
  to += first * row_.to;
  for (std::size_t i = count_; i-- > 0; index /= axes_[i].extent) {
    from += index % axes_[i].extent * axes_[i].from;
    to += index % axes_[i].extent * axes_[i].to;
  }
  if (row_.from == item_ && row_.to == item_) {
    std::memcpy(to, from, static_cast<std::size_t>(items * item_));
    return;
  }
  for (int64_t k = 0; k < items; ++k) {
    std::memcpy(to + k * row_.to, from + k * row_.from, static_cast<std::size_t>(item_));
  }
}

void LastFrames::copy(int64_t begin, int64_t end, int64_t pieces) const {
  for (int64_t frame = in_place_; frame < kept_.shape[2]; ++frame) {
    const int64_t seen = frame + x_.shape[2];  // of past and x together
    const bool is_old = seen < kept_.shape[2];
    const View& source = is_old ? past_ : x_;
    const std::byte* const from =
        source.as<const std::byte>() + (is_old ? seen : seen - kept_.shape[2]) * source.stride(2);
    (is_old ? old_ : fresh_)
        .pieces(begin, end, pieces, from, kept_.as<std::byte>() + frame * kept_.stride(2));
  }
}

}  // namespace marey
