// Float32 tensors with gaps: rows lie further apart than they are long, the start is not aligned to a
// vector, and everything between the elements is a guard pattern (a NaN) that nobody may touch or use.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace nibble::kernels::testing {

class HostTensor {
 public:
  // Elements start as guards too: an output element that is never written stays NaN.
  // kAligned: the start is aligned as a device's own tensors are; else to 4 bytes.
  static constexpr std::int64_t kUnaligned = 3;
  static constexpr std::int64_t kAligned = 16;

  HostTensor(std::initializer_list<std::int64_t> shape, std::int64_t row_gap = 0,
             std::int64_t lead = kUnaligned) {
    view_ = make_view(nullptr, DType::f32, shape);
    row_length_ = view_.stride[0];
    view_.stride[0] += row_gap;
    storage_.assign(static_cast<std::size_t>(lead + view_.dim(0) * view_.stride[0] + 1), guard());
    view_.data = storage_.data() + lead;
  }
  HostTensor(std::initializer_list<std::int64_t> shape, std::span<const float> values,
             std::int64_t row_gap = 0, std::int64_t lead = kUnaligned)
      : HostTensor(shape, row_gap, lead) {
    for (std::int64_t i = 0; i < view_.dim(0); ++i) {
      for (std::int64_t j = 0; j < row_length_; ++j) {
        row(i)[j] = values[static_cast<std::size_t>(i * row_length_ + j)];
      }
    }
  }
  HostTensor(const HostTensor&) = delete;
  HostTensor& operator=(const HostTensor&) = delete;

  [[nodiscard]] const TensorView& view() const { return view_; }
  [[nodiscard]] float* row(std::int64_t i) const { return view_.as<float>() + i * view_.stride[0]; }

  // The elements without the gaps.
  [[nodiscard]] std::vector<float> values() const {
    std::vector<float> result;
    for (std::int64_t i = 0; i < view_.dim(0); ++i) result.insert(result.end(), row(i), row(i) + row_length_);
    return result;
  }

  // True if no gap was written.
  [[nodiscard]] bool guards_intact() const {
    const float* begin = view_.as<float>();
    for (const float& value : storage_) {
      const std::int64_t at = &value - begin;
      const bool is_element = at >= 0 && view_.stride[0] != 0 && at / view_.stride[0] < view_.dim(0) &&
                              at % view_.stride[0] < row_length_;
      if (!is_element && std::bit_cast<std::uint32_t>(value) != kGuardBits) return false;
    }
    return true;
  }

 private:
  static constexpr std::uint32_t kGuardBits = 0x7FC0BAADU;
  static float guard() { return std::bit_cast<float>(kGuardBits); }

  TensorView view_;
  std::int64_t row_length_ = 0;
  std::vector<float> storage_;
};

}  // namespace nibble::kernels::testing
