// Random canonical integer matrices with every part, for the layout tests.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/float16.h"
#include "quant/int_layouts.h"
#include "quant/int_packing.h"
#include "tests/support/random.h"

namespace nibble::quant::testing {

struct IntShape {
  WeightFormat format = WeightFormat::int4;
  std::int64_t n = 0;
  std::int64_t k = 0;
  Grouping grouping;
};

// Owns what a MatrixView points to.
struct IntMatrix {
  IntShape shape;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint16_t> scales;  // F16
  std::vector<std::int8_t> zeros;
  std::vector<std::int32_t> g_idx;

  [[nodiscard]] MatrixView view() const {
    MatrixView m{.format = shape.format, .n = shape.n, .k = shape.k};
    m.grouping = shape.grouping;
    m.scale_dtype = DType::f16;
    m.codes = reinterpret_cast<const std::byte*>(codes.data());
    m.scales = reinterpret_cast<const std::byte*>(scales.data());
    if (shape.grouping.zero_points) m.zeros = reinterpret_cast<const std::byte*>(zeros.data());
    if (shape.grouping.act_order) m.g_idx = reinterpret_cast<const std::byte*>(g_idx.data());
    return m;
  }
};

inline IntMatrix random_int_matrix(const IntShape& shape) {
  ::nibble::testing::Random random(static_cast<std::uint64_t>(shape.n * 1000 + shape.k));
  IntMatrix matrix{.shape = shape, .codes = {}, .scales = {}, .zeros = {}, .g_idx = {}};
  const std::int64_t groups = matrix.view().num_groups();
  const int middle = shape.format == WeightFormat::int4 ? 8 : 128;
  for (std::int64_t i = 0; i < shape.n * code_row_bytes(shape.format, shape.k); ++i) {
    matrix.codes.push_back(static_cast<std::uint8_t>(random.next()));
  }
  for (std::int64_t i = 0; i < shape.n * groups; ++i) {
    matrix.scales.push_back(float_to_f16(random.uniform(0.001F, 2.0F)));
    matrix.zeros.push_back(static_cast<std::int8_t>(random.below(2 * middle) - middle));
  }
  for (std::int64_t i = 0; i < shape.k; ++i)
    matrix.g_idx.push_back(static_cast<std::int32_t>(random.below(groups)));
  return matrix;
}

// The tensors of a packed matrix.
struct PackedMatrix {
  std::vector<std::byte> codes;
  std::vector<std::byte> zeros;
  std::vector<std::byte> scales;
  std::vector<std::byte> g_idx;
  MatrixView view;  // of the tensors here
};

inline PackedMatrix pack(const MatrixView& m, MatrixLayout layout) {
  const PackedBytes bytes = packed_bytes(m, layout).value();
  const auto buffer = [](std::int64_t size) {
    return std::vector<std::byte>(static_cast<std::size_t>(size), std::byte{0xAA});
  };
  PackedMatrix packed{.codes = buffer(bytes.codes),
                      .zeros = buffer(bytes.zeros),
                      .scales = buffer(bytes.scales),
                      .g_idx = buffer(bytes.g_idx),
                      .view = m};
  pack_codes(m, layout, packed.codes.data());
  if (bytes.zeros != 0) pack_zeros(m, layout, packed.zeros.data());
  pack_scales(m, layout, packed.scales.data());
  if (bytes.g_idx != 0) pack_g_idx(m, layout, packed.g_idx.data());
  packed.view.layout = layout;
  packed.view.codes = packed.codes.data();
  packed.view.zeros = bytes.zeros != 0 ? packed.zeros.data() : nullptr;
  packed.view.scales = packed.scales.data();
  packed.view.g_idx = bytes.g_idx != 0 ? packed.g_idx.data() : nullptr;
  return packed;
}

}  // namespace nibble::quant::testing
