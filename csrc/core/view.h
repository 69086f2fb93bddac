#pragma once
// A view of an array that somebody else owns: pointer, type, shape and strides.
#include <array>
#include <cstdint>
#include <string>

namespace marey {

enum class DType : int { u8, f32, f64, bf16 };

constexpr int64_t item_size(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return 1;
    case DType::f32:
      return 4;
    case DType::f64:
      return 8;
    case DType::bf16:
      return 2;
  }
  return 0;
}

constexpr const char* name(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return "uint8";
    case DType::f32:
      return "float32";
    case DType::f64:
      return "float64";
    case DType::bf16:
      return "bfloat16";
  }
  return "";
}

// Fewer than NumPy's 64. A filter's state and a channel axis need one more than the array.
inline constexpr int kMaxDims = 16;
inline constexpr int kMaxArrayDims = kMaxDims - 1;

struct Shape {
  int ndim = 0;
  std::array<int64_t, kMaxDims> dims{};

  int64_t operator[](int axis) const { return dims[static_cast<std::size_t>(axis)]; }
  int64_t& operator[](int axis) { return dims[static_cast<std::size_t>(axis)]; }
  int64_t count() const {
    int64_t product = 1;
    for (int axis = 0; axis < ndim; ++axis) product *= (*this)[axis];
    return product;
  }
  void push_back(int64_t extent) { dims[static_cast<std::size_t>(ndim++)] = extent; }
  bool operator==(const Shape& other) const {
    if (ndim != other.ndim) return false;
    for (int axis = 0; axis < ndim; ++axis) {
      if ((*this)[axis] != other[axis]) return false;
    }
    return true;
  }
};

// As Python writes it: "(2, 3)", "(4,)".
inline std::string to_string(const Shape& shape) {
  std::string text = "(";
  for (int axis = 0; axis < shape.ndim; ++axis) {
    if (axis != 0) text += ", ";
    text += std::to_string(shape[axis]);
  }
  return text + (shape.ndim == 1 ? ",)" : ")");
}

struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  std::array<int64_t, kMaxDims> strides{};  // in bytes, any sign

  int ndim() const { return shape.ndim; }
  int64_t stride(int axis) const { return strides[static_cast<std::size_t>(axis)]; }
  int64_t& stride(int axis) { return strides[static_cast<std::size_t>(axis)]; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// Steps through the positions of some axes of a view in C order: what "any leading axes are batch"
// means in a loop. Offsets are in bytes.
inline int64_t offset_at(const View& view, int first_axis, int last_axis, int64_t index) {
  int64_t offset = 0;
  for (int axis = last_axis - 1; axis >= first_axis; --axis) {
    const int64_t extent = view.shape[axis];
    offset += (index % extent) * view.stride(axis);
    index /= extent;
  }
  return offset;
}

// True if the axes [first, last) lie in memory as one C-ordered run of items.
inline bool is_contiguous(const View& view, int first_axis, int last_axis) {
  int64_t expected = item_size(view.dtype);
  for (int axis = last_axis - 1; axis >= first_axis; --axis) {
    if (view.shape[axis] != 1 && view.stride(axis) != expected) return false;
    expected *= view.shape[axis];
  }
  return true;
}

}  // namespace marey
