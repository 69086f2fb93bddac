# marey_add_kernels(<target> [NO_BF16] <file>...) compiles each kernel file once for every
# instruction set and adds the objects to <target>. An instruction set is one line of the table
# below, one enumerator in core/isa.h and its detection in core/isa.cpp.
#
# NO_BF16: kernels without products of bfloat16 pairs, whose stubs are MAREY_STUB_NO_BF16. What
# avx512_bf16 adds is of no use to them, so that their copy for avx512 serves both. Of the others, the
# copy for avx512_bf16 is of bfloat16 alone (MAREY_ONLY_BF16), and that for avx512 serves other types.
#
# Only these files get instruction-set flags. Each copy lives in its own namespace (MAREY_ISA_NS).

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(MAREY_ISAS
      baseline avx2 avx512 avx512_bf16
      CACHE STRING "Instruction sets to compile for; fewer build faster while developing")
  set(MAREY_ISA_FLAGS_baseline -march=x86-64-v2)
  set(MAREY_ISA_FLAGS_avx2 -march=x86-64-v3)
  set(MAREY_ISA_FLAGS_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
  # The instructions of AMX are behind a question at run time (core/tile_amx.h).
  set(MAREY_ISA_FLAGS_avx512_bf16 -march=x86-64-v4 -mprefer-vector-width=512 -mavx512bf16
                                  -mamx-tile -mamx-bf16)
else()
  set(MAREY_ISAS baseline)
  set(MAREY_ISA_FLAGS_baseline "")
endif()

foreach(isa IN LISTS MAREY_ISAS)
  string(TOUPPER ${isa} upper)
  list(APPEND MAREY_ISA_DEFINITIONS MAREY_HAVE_${upper})
endforeach()

function(marey_add_kernels target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "NO_BF16" "" "")
  set(isas ${MAREY_ISAS})
  if(arg_NO_BF16 AND "avx512" IN_LIST isas)
    list(REMOVE_ITEM isas avx512_bf16)
  endif()
  foreach(isa IN LISTS isas)
    set(objects ${target}_kernels_${isa})
    if(NOT TARGET ${objects})
      add_library(${objects} OBJECT)
      target_link_libraries(${objects} PRIVATE marey_options marey_sanitizers)
      target_compile_definitions(${objects} PRIVATE MAREY_ISA_NS=isa_${isa})
      if(isa STREQUAL "avx512_bf16" AND "avx512" IN_LIST isas)
        target_compile_definitions(${objects} PRIVATE MAREY_ONLY_BF16)
      endif()
      # A kernel neither reads errno nor expects floating-point traps.
      target_compile_options(${objects} PRIVATE ${MAREY_ISA_FLAGS_${isa}} -fno-math-errno
                                                -fno-trapping-math)
      if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        # The AVX-512 headers of GCC 12 warn of themselves (GCC bug 105593).
        target_compile_options(${objects} PRIVATE -Wno-maybe-uninitialized -Wno-uninitialized)
      endif()
      if(MAREY_SANITIZE)
        # Each vector that a kernel names is a variable with a scope: watched, they take up to
        # half of the time to compile. A kernel keeps no address of them.
        target_compile_options(${objects} PRIVATE -fno-sanitize-address-use-after-scope)
      endif()
      if(MAREY_PRECOMPILED_HEADERS)
        # Parsing these takes half of the time that a small kernel takes to compile.
        target_precompile_headers(
          ${objects} PRIVATE <algorithm> <cmath> <cstring> <experimental/simd> <string> <vector>)
      endif()
      target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
    endif()
    target_sources(${objects} PRIVATE ${arg_UNPARSED_ARGUMENTS})
  endforeach()
endfunction()
