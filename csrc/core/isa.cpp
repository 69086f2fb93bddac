#include "core/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "core/amx.h"
#include "core/error.h"

namespace marey {
namespace {

bool is_compiled(Isa isa) {
  switch (isa) {
#ifdef MAREY_HAVE_BASELINE
    case Isa::baseline:
      return true;
#endif
#ifdef MAREY_HAVE_AVX2
    case Isa::avx2:
      return true;
#endif
#ifdef MAREY_HAVE_AVX512
    case Isa::avx512:
      return true;
#endif
#ifdef MAREY_HAVE_AVX512_BF16
    case Isa::avx512_bf16:
    case Isa::avx512_amx:
      return true;
#endif
    default:
      return false;
  }
}

// libgcc's detection includes the operating system's support for the wider registers.
bool is_supported(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // The levels by name, because the compiler may use every instruction of a level.
  switch (isa) {
    case Isa::baseline:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("x86-64-v3");
    case Isa::avx512:
      return __builtin_cpu_supports("x86-64-v4");
    case Isa::avx512_bf16:
      return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16");
    case Isa::avx512_amx:
      return is_supported(Isa::avx512_bf16) && has_amx();
  }
  return false;
#else
  return isa == Isa::baseline;
#endif
}

std::string join(const std::vector<Isa>& isas) {
  std::string text;
  for (Isa isa : isas) text += (text.empty() ? "" : ", ") + std::string(name(isa));
  return text;
}

std::atomic<Isa> g_active{Isa::baseline};

}  // namespace

std::vector<Isa> compiled_isas() {
  std::vector<Isa> result;
  for (int i = 0; i < kIsaCount; ++i) {
    if (is_compiled(static_cast<Isa>(i))) result.push_back(static_cast<Isa>(i));
  }
  return result;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> result;
  for (Isa isa : compiled_isas()) {
    if (is_supported(isa)) result.push_back(isa);
  }
  return result;
}

Isa active_isa() { return g_active.load(std::memory_order_relaxed); }

void set_active_isa(std::string_view requested) {
  for (Isa isa : available_isas()) {
    if (name(isa) == requested) {
      g_active.store(isa, std::memory_order_relaxed);
      return;
    }
  }
  throw ValueError("marey", "MAREY_ISA", "one of " + join(available_isas()) + " on this machine",
                   "'" + std::string(requested) + "'");
}

void choose_isa_from_environment() {
  if (available_isas().empty()) {
    throw std::runtime_error("marey was compiled for " + join(compiled_isas()) +
                             ", which this processor does not have");
  }
  if (const char* forced = std::getenv("MAREY_ISA"); forced != nullptr && *forced != '\0') {
    set_active_isa(forced);
  } else {
    g_active.store(available_isas().back(), std::memory_order_relaxed);
  }
}

}  // namespace marey
