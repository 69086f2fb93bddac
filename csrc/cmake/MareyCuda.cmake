# The CUDA kernels: marey._cuda, a second extension module, for the device; and marey._cuda_on_cpu,
# the same kernels run by csrc/cuda/on_cpu.h on the CPU, for tests.
#
# MAREY_CUDA=AUTO builds the first where a CUDA compiler is found. It has CUDA's runtime in it and
# needs no CUDA library: it is imported on any machine, and says there that no device is to be found.

set(MAREY_CUDA
    AUTO
    CACHE STRING "CUDA kernels: AUTO (where nvcc is found), ON or OFF")
set_property(CACHE MAREY_CUDA PROPERTY STRINGS AUTO ON OFF)
option(MAREY_CUDA_ON_CPU "Build the CUDA kernels for the CPU too, for tests" OFF)
set(MAREY_CUDA_ARCHITECTURES
    80 90 100 120
    CACHE STRING "Devices to compile the generic kernels for, the least first")
option(MAREY_CUDA_HOPPER "Compile the kernels of sm_90a" ON)

# Everything generic, and what is for Hopper alone.
set(MAREY_CUDA_KERNELS
    csrc/ops/attention/attention_backward_cuda.cu
    csrc/ops/attention/attention_cuda.cu
    csrc/ops/attention/attention_grad_bias_cuda.cu
    csrc/ops/conv/conv3d_cuda.cu
    csrc/ops/conv/conv3d_weights_cuda.cu
    csrc/ops/magnification/linear_cuda.cu
    csrc/ops/pyramid/down_cuda.cu
    csrc/ops/pyramid/up_cuda.cu
    csrc/ops/recurrent/recurrent_back_sequence_cuda.cu
    csrc/ops/recurrent/recurrent_backward_cuda.cu
    csrc/ops/recurrent/recurrent_cuda.cu
    csrc/ops/recurrent/recurrent_sequence_cuda.cu
    csrc/ops/temporal/convolve_cuda.cu
    csrc/ops/temporal/median_cuda.cu
    csrc/ops/temporal/median_filter_cuda.cu
    csrc/ops/temporal/sosfilt_cuda.cu
    csrc/ops/temporal/sosfiltfilt_cuda.cu)
set(MAREY_CUDA_HOPPER_KERNELS csrc/ops/attention/attention_backward_sm90.cu
                              csrc/ops/attention/attention_sm90.cu
                              csrc/ops/conv/conv3d_sm90.cu)
# What is the same on every device, and in both modules.
set(MAREY_CUDA_SOURCES
    csrc/bindings/cuda_arrays.cpp
    csrc/bindings/cuda_attention.cpp
    csrc/bindings/cuda_conv.cpp
    csrc/bindings/cuda_magnification.cpp
    csrc/bindings/cuda_pyramid.cpp
    csrc/bindings/cuda_recurrent.cpp
    csrc/bindings/cuda_temporal.cpp
    csrc/ops/attention/arguments_cuda.cpp
    csrc/ops/attention/checks.cpp
    csrc/ops/conv/checks.cpp
    csrc/ops/pyramid/image.cpp
    csrc/ops/pyramid/shapes.cpp
    csrc/ops/temporal/checks.cpp)

# Spills and local memory are errors. C7504 and the like (setmaxnreg ignored, wgmma serialised) are
# messages only: tools/check_cuda_build.py looks for them.
set(MAREY_CUDA_FLAGS --expt-relaxed-constexpr -Xptxas
                     --warn-on-spills,--warn-on-local-memory-usage,-v -Werror all-warnings)

function(marey_configure_cuda_module module)
  if(NOT TARGET marey_cuda_host)
    add_library(marey_cuda_host OBJECT EXCLUDE_FROM_ALL ${MAREY_CUDA_SOURCES})
    target_link_libraries(marey_cuda_host PRIVATE marey_options pybind11::module)
    marey_compile_as_bindings(marey_cuda_host)
    if(MAREY_PRECOMPILED_HEADERS)
      target_precompile_headers(marey_cuda_host PRIVATE <string> <vector> <pybind11/numpy.h>
                                <pybind11/stl.h>)
    endif()
  endif()
  target_sources(${module} PRIVATE csrc/bindings/cuda_module.cpp $<TARGET_OBJECTS:marey_cuda_host>)
  marey_compile_as_bindings(${module})
  target_link_libraries(${module} PRIVATE marey_options)
  target_compile_definitions(${module} PRIVATE MAREY_CUDA_MODULE=${module})
endfunction()

if(MAREY_CUDA_ON_CPU)
  set(wrappers)
  foreach(kernel IN LISTS MAREY_CUDA_KERNELS MAREY_CUDA_HOPPER_KERNELS)
    get_filename_component(stem ${kernel} NAME_WE)
    set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/on_cpu/${stem}.cpp)
    file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${CMAKE_CURRENT_SOURCE_DIR}/${kernel}\"\n")
    list(APPEND wrappers ${wrapper})
  endforeach()
  set(on_cpu csrc/cuda/on_cpu.cpp csrc/cuda/sm90_on_cpu.cpp csrc/cuda/faults_on_cpu.cpp)
  # The kernels' own warnings are nvcc's business.
  set_source_files_properties(${wrappers} PROPERTIES COMPILE_OPTIONS "-w;-march=native")
  set_source_files_properties(${wrappers} ${on_cpu} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  pybind11_add_module(_cuda_on_cpu MODULE EXCLUDE_FROM_ALL NO_EXTRAS
                      csrc/bindings/cuda_on_cpu.cpp ${on_cpu} ${wrappers})
  marey_configure_cuda_module(_cuda_on_cpu)
  target_compile_options(_cuda_on_cpu PRIVATE -Wno-unknown-pragmas)
endif()

if(MAREY_CUDA STREQUAL "OFF")
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(MAREY_CUDA STREQUAL "ON")
    message(FATAL_ERROR "MAREY_CUDA=ON needs a CUDA compiler, and none was found")
  endif()
  return()
endif()
list(TRANSFORM MAREY_CUDA_ARCHITECTURES REPLACE "-(real|virtual)$" "" OUTPUT_VARIABLE devices)
list(GET devices 0 least)
set(CMAKE_CUDA_ARCHITECTURES ${least})
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  if(MAREY_CUDA STREQUAL "ON")
    message(FATAL_ERROR "MAREY_CUDA=ON needs nvcc 12.8 or later (for sm_120); found "
                        "${CMAKE_CUDA_COMPILER_VERSION}")
  endif()
  return()
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
pybind11_add_module(_cuda MODULE NO_EXTRAS csrc/bindings/cuda_device.cpp)
marey_configure_cuda_module(_cuda)
find_package(CUDAToolkit REQUIRED)
target_link_libraries(_cuda PRIVATE CUDA::cudart_static)
target_compile_definitions(_cuda PRIVATE MAREY_CUDA_VERSION="${CMAKE_CUDA_COMPILER_VERSION}")

add_library(marey_cuda OBJECT ${MAREY_CUDA_KERNELS})
# From one intermediate code, that of the least device, which later ones can use too: nothing generic
# asks which device it is for, and a device with a code of its own takes twice as long or more.
list(TRANSFORM devices PREPEND sm_)
list(JOIN devices "," devices)
set_target_properties(marey_cuda PROPERTIES CUDA_ARCHITECTURES OFF)
target_compile_options(
  marey_cuda PRIVATE "SHELL:-gencode arch=compute_${least},code=[${devices},compute_${least}]")
set(objects marey_cuda)
if(MAREY_CUDA_HOPPER AND MAREY_CUDA_HOPPER_KERNELS)
  add_library(marey_cuda_hopper OBJECT csrc/cuda/sm90.cu ${MAREY_CUDA_HOPPER_KERNELS})
  set_target_properties(marey_cuda_hopper PROPERTIES CUDA_ARCHITECTURES 90a-real)
  list(APPEND objects marey_cuda_hopper)
  target_compile_definitions(_cuda PRIVATE MAREY_HAVE_HOPPER)
  target_compile_definitions(marey_cuda PRIVATE MAREY_HAVE_HOPPER)
endif()
foreach(library IN LISTS objects)
  target_include_directories(${library} PRIVATE csrc)
  target_compile_options(${library} PRIVATE ${MAREY_CUDA_FLAGS})
  target_sources(_cuda PRIVATE $<TARGET_OBJECTS:${library}>)
endforeach()
install(TARGETS _cuda DESTINATION marey)
