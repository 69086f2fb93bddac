#pragma once
// What the functions of the C interface have in common: plain arrays become views, and exceptions a
// status and a text.
#include <cstring>
#include <new>
#include <string>

#include "core/error.h"
#include "core/isa.h"
#include "core/view.h"
#include "include/marey/marey.h"

namespace marey::capi {

void set_last_error(const char* text);

// Runs a call, and turns what it throws into a status.
template <class F>
marey_status guarded(F&& call) {
  try {
    static const bool chosen = (choose_isa_from_environment(), true);
    static_cast<void>(chosen);
    call();
    return MAREY_OK;
  } catch (const ValueError& error) {
    set_last_error(error.what());
    return MAREY_VALUE_ERROR;
  } catch (const TypeError& error) {
    set_last_error(error.what());
    return MAREY_TYPE_ERROR;
  } catch (const std::bad_alloc&) {
    set_last_error("[marey] out of memory");
    return MAREY_NO_MEMORY;
  } catch (const std::exception& error) {
    set_last_error(error.what());
    return MAREY_ERROR;
  }
}

inline View view_of(const char* function, const char* argument, const marey_array* array) {
  if (array == nullptr) throw ValueError(function, argument, "an array", "a null pointer");
  const int most = std::strcmp(argument, "zi") == 0 || std::strcmp(argument, "zf") == 0
                       ? kMaxDims
                       : kMaxArrayDims;
  if (array->ndim < 0 || array->ndim > most) {
    throw ValueError(function, argument, "0 to " + std::to_string(most) + " axes",
                     std::to_string(array->ndim));
  }
  const int dtype = static_cast<int>(array->dtype);
  if (dtype < MAREY_UINT8 || dtype > MAREY_BFLOAT16) {
    throw TypeError(function, argument, "a marey_dtype", std::to_string(dtype));
  }
  View view;
  view.data = array->data;
  view.dtype = static_cast<DType>(dtype);
  for (int axis = 0; axis < array->ndim; ++axis) {
    if (array->shape[axis] < 0) {
      throw ValueError(function, argument, "a shape of 0 or more",
                       std::to_string(array->shape[axis]));
    }
    view.shape.push_back(array->shape[axis]);
    view.stride(axis) = array->strides[axis];
  }
  return view;
}

inline void expect(const char* function, const char* argument, const View& view, const Shape& shape,
                   DType dtype) {
  if (!(view.shape == shape)) {
    throw ValueError(function, argument, "shape " + to_string(shape), to_string(view.shape));
  }
  if (view.dtype != dtype) throw TypeError(function, argument, name(dtype), name(view.dtype));
}

}  // namespace marey::capi
