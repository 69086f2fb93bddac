#pragma once
// One table per kernel, with a slot for each instruction set.
//
// A kernel file is compiled once for each instruction set, every time into its own namespace
// (MAREY_ISA_NS). avx512_amx has no copies: those before it run, and ask whether it is active; but
// what chooses by type has a slot for it (MAREY_STUB_SPLIT). MAREY_DECLARE_KERNEL declares the
// function in each namespace that was compiled, and MAREY_STUB makes the table from them: plain
// symbols, resolved by the linker, nothing registered at run time that a static library could lose.
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "core/isa.h"

namespace marey {

class StubBase {
 public:
  explicit StubBase(const char* kernel);
  virtual ~StubBase() = default;
  StubBase(const StubBase&) = delete;
  StubBase& operator=(const StubBase&) = delete;

  const char* kernel() const { return kernel_; }
  // The instruction set whose version a call would run now, or would if `isa` were the active one.
  Isa chosen() const { return chosen(active_isa()); }
  Isa chosen(Isa isa) const;

 protected:
  virtual bool has(Isa isa) const = 0;

 private:
  const char* kernel_;
};

template <class Fn>
class Stub final : public StubBase {
 public:
  using Slots = std::array<Fn*, kIsaCount>;
  Stub(const char* kernel, Slots slots) : StubBase(kernel), slots_(slots) {}

  // Look the function up once a call, outside all loops.
  Fn* get() const { return get(active_isa()); }
  Fn* get(Isa isa) const { return slots_[static_cast<std::size_t>(chosen(isa))]; }

 private:
  bool has(Isa isa) const override { return slots_[static_cast<std::size_t>(isa)] != nullptr; }
  Slots slots_;
};

// Every kernel, by name, with the instruction set that would run now.
std::vector<std::pair<std::string, Isa>> list_kernels();

}  // namespace marey

#ifdef MAREY_HAVE_BASELINE
#define MAREY_IF_BASELINE(yes, no) yes
#else
#define MAREY_IF_BASELINE(yes, no) no
#endif
#ifdef MAREY_HAVE_AVX2
#define MAREY_IF_AVX2(yes, no) yes
#else
#define MAREY_IF_AVX2(yes, no) no
#endif
#ifdef MAREY_HAVE_AVX512
#define MAREY_IF_AVX512(yes, no) yes
#else
#define MAREY_IF_AVX512(yes, no) no
#endif
#ifdef MAREY_HAVE_AVX512_BF16
#define MAREY_IF_AVX512_BF16(yes, no) yes
#else
#define MAREY_IF_AVX512_BF16(yes, no) no
#endif

// Use inside namespace marey: declares `Fn fn;` in each instruction set's namespace.
#define MAREY_DECLARE_KERNEL(fn, Fn) \
  namespace isa_baseline {           \
  Fn fn;                             \
  }                                  \
  namespace isa_avx2 {               \
  Fn fn;                             \
  }                                  \
  namespace isa_avx512 {             \
  Fn fn;                             \
  }                                  \
  namespace isa_avx512_bf16 {        \
  Fn fn;                             \
  }

#define MAREY_STUB_SLOTS(fn, Fn, bf16, amx)                                                  \
  namespace {                                                                                \
  const ::marey::Stub<Fn> fn##_stub{                                                         \
      #fn,                                                                                   \
      {MAREY_IF_BASELINE(&isa_baseline::fn, nullptr), MAREY_IF_AVX2(&isa_avx2::fn, nullptr), \
       MAREY_IF_AVX512(&isa_avx512::fn, nullptr), bf16, amx}};                               \
  }

// Use inside namespace marey, in the one file that is compiled once: defines `fn##_stub`.
#define MAREY_STUB(fn, Fn) \
  MAREY_STUB_SLOTS(fn, Fn, MAREY_IF_AVX512_BF16(&isa_avx512_bf16::fn, nullptr), nullptr)

// The same for a kernel without products of bfloat16 pairs, one of those after NO_BF16 in
// marey_add_kernels: with avx512_bf16 its copy for avx512 runs, and another is compiled only where
// that one is not.
#define MAREY_STUB_NO_BF16(fn, Fn)                                                                \
  MAREY_STUB_SLOTS(fn, Fn,                                                                        \
                   MAREY_IF_AVX512(nullptr, MAREY_IF_AVX512_BF16(&isa_avx512_bf16::fn, nullptr)), \
                   nullptr)

// For a function of a DType: its copy for avx512_bf16 of the types for which `of_bf16` holds, a
// condition on `dtype`, and that for avx512 of the others, where it is compiled (core/select.h).
#define MAREY_BY_TYPE(fn, of_bf16)                                         \
  MAREY_IF_AVX512_BF16(MAREY_IF_AVX512(                                    \
                           [](DType dtype) {                               \
                             return (of_bf16) ? isa_avx512_bf16::fn(dtype) \
                                              : isa_avx512::fn(dtype);     \
                           },                                              \
                           &isa_avx512_bf16::fn),                          \
                       nullptr)

// The copy for avx512_bf16 is of bfloat16 alone.
#define MAREY_STUB_BF16(fn, Fn) \
  MAREY_STUB_SLOTS(fn, Fn, MAREY_BY_TYPE(fn, dtype == DType::bf16), nullptr)

// The same, and with avx512_amx of float32 by split operands too (core/tile_split.h).
#define MAREY_STUB_SPLIT(fn, Fn)                                    \
  MAREY_STUB_SLOTS(fn, Fn, MAREY_BY_TYPE(fn, dtype == DType::bf16), \
                   MAREY_BY_TYPE(fn, dtype != DType::f64))
