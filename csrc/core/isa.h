#pragma once
// The instruction sets that kernels are compiled for. The best one that the processor has is chosen
// when the library loads; the environment variable MAREY_ISA forces one.
#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace marey {

// From least to most capable: a processor that has one has all before it. No kernel is compiled for
// avx512_amx: the copies for avx512_bf16 run, and their products of bfloat16 take tiles, and
// some of float32 (core/tile_split.h).
enum class Isa : int { baseline, avx2, avx512, avx512_bf16, avx512_amx };

inline constexpr int kIsaCount = 5;
inline constexpr std::array<std::string_view, kIsaCount> kIsaNames = {"baseline", "avx2", "avx512",
                                                                      "avx512_bf16", "avx512_amx"};

constexpr std::string_view name(Isa isa) { return kIsaNames[static_cast<std::size_t>(isa)]; }

// Those compiled into this build, and those of them that this processor can run.
std::vector<Isa> compiled_isas();
std::vector<Isa> available_isas();

// The instruction set in use by the whole process.
Isa active_isa();

// Throws ValueError for an unknown name, and for one that is not available.
void set_active_isa(std::string_view name);

// Reads MAREY_ISA. Called once, when the library loads. Throws where nothing that was compiled runs
// on this processor, which happens only to builds without the baseline.
void choose_isa_from_environment();

}  // namespace marey
