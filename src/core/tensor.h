// TensorView: a typed, strided window on memory somebody else owns. Copying it is free.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/check.h"
#include "core/dtype.h"

namespace nibble {

inline constexpr int kMaxRank = 4;

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  std::array<std::int64_t, kMaxRank> shape{};
  std::array<std::int64_t, kMaxRank> stride{};  // in elements; the last is 1 in everything we make

  [[nodiscard]] std::int64_t dim(int i) const { return shape[static_cast<std::size_t>(i)]; }
  [[nodiscard]] std::int64_t num_elements() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= dim(i);
    return n;
  }

  template <class T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data);
  }
  [[nodiscard]] float* f32() const {
    NIB_DCHECK(dtype == DType::f32, "tensor is {}, not F32", dtype_name(dtype));
    return static_cast<float*>(data);
  }

  // Row i of the first axis as a view of one rank less.
  [[nodiscard]] TensorView row(std::int64_t i) const {
    TensorView v = rows(i, i + 1);
    for (int d = 1; d < rank; ++d) {
      v.shape[static_cast<std::size_t>(d - 1)] = shape[static_cast<std::size_t>(d)];
      v.stride[static_cast<std::size_t>(d - 1)] = stride[static_cast<std::size_t>(d)];
    }
    v.rank = rank - 1;
    return v;
  }

  // Rows [begin, end) of the first axis.
  [[nodiscard]] TensorView rows(std::int64_t begin, std::int64_t end) const {
    NIB_DCHECK(begin >= 0 && begin <= end && end <= dim(0), "rows {}..{} of {}", begin, end, dim(0));
    TensorView v = *this;
    v.data = static_cast<std::byte*>(data) + begin * stride[0] * dtype_bits(dtype) / 8;
    v.shape[0] = end - begin;
    return v;
  }

  // Columns [begin, end) of the last axis; keeps the strides.
  [[nodiscard]] TensorView columns(std::int64_t begin, std::int64_t end) const {
    NIB_DCHECK(begin >= 0 && begin <= end && end <= dim(rank - 1), "columns {}..{}", begin, end);
    TensorView v = *this;
    v.data = static_cast<std::byte*>(data) + begin * dtype_bits(dtype) / 8;
    v.shape[static_cast<std::size_t>(rank - 1)] = end - begin;
    return v;
  }
};

// A contiguous row-major view.
inline TensorView make_view(void* data, DType dtype, std::initializer_list<std::int64_t> shape) {
  TensorView v{.data = data, .dtype = dtype, .rank = static_cast<int>(shape.size())};
  NIB_CHECK(v.rank <= kMaxRank, "rank {} is over {}", v.rank, kMaxRank);
  std::size_t i = 0;
  for (const std::int64_t d : shape) v.shape[i++] = d;
  std::int64_t step = 1;
  while (i-- > 0) {
    v.stride[i] = step;
    step *= v.shape[i];
  }
  return v;
}

}  // namespace nibble
