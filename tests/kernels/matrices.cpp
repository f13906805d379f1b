#include "tests/kernels/matrices.h"

#include <array>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "quant/e8m0.h"
#include "quant/float16.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;
using quant::MatrixView;
using quant::WeightFormat;

template <class T>
void append(std::vector<std::byte>& bytes, T value) {
  const std::size_t at = bytes.size();
  bytes.resize(at + sizeof(T));
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

// Mostly uniform, now and then zero or negative zero.
float plain_weight(Random& random, float amplitude) {
  const std::int64_t kind = random.below(20);
  if (kind == 0) return 0.0F;
  if (kind == 1) return -0.0F;
  return random.uniform(-amplitude, amplitude);
}

std::uint8_t random_e4m3(Random& random) {
  const auto magnitude = static_cast<std::uint8_t>(random.below(0x7F));
  return static_cast<std::uint8_t>(magnitude | (random.below(2) << 7));
}

void fill_plain(Random& random, StoredMatrix& m, float amplitude) {
  for (std::int64_t i = 0; i < m.view.n * m.view.k; ++i) {
    const float w = plain_weight(random, amplitude);
    if (m.view.format == WeightFormat::f32) {
      append(m.codes, w);
    } else {
      append(m.codes, m.view.format == WeightFormat::f16 ? quant::float_to_f16(w) : quant::float_to_bf16(w));
    }
  }
}

void fill_fp8(Random& random, StoredMatrix& m, float amplitude) {
  constexpr std::array kScaleTypes = {DType::f32, DType::bf16, DType::f8_e8m0};
  m.view.scale_dtype = kScaleTypes[static_cast<std::size_t>(random.below(3))];
  for (std::int64_t i = 0; i < m.view.n * m.view.k; ++i) append(m.codes, random_e4m3(random));
  const std::int64_t blocks =
      (m.view.n + m.view.rows_per_scale() - 1) / m.view.rows_per_scale() * m.view.num_groups();
  for (std::int64_t i = 0; i < blocks; ++i) {
    const float scale = random.uniform(0.25F, 1.0F) * amplitude / 100.0F;
    switch (m.view.scale_dtype) {
      case DType::f32: append(m.scales, scale); break;
      case DType::bf16: append(m.scales, quant::float_to_bf16(scale)); break;
      default: append(m.scales, quant::float_to_e8m0_ceil(scale)); break;
    }
  }
}

void fill_fp4(Random& random, StoredMatrix& m, float amplitude) {
  for (std::int64_t i = 0; i < m.view.n * m.view.k / 2; ++i) {
    append(m.codes, static_cast<std::uint8_t>(random.below(256)));
  }
  if (m.view.format == WeightFormat::mxfp4) {
    const int centre = 127 + static_cast<int>(std::floor(std::log2(amplitude))) - 2;
    for (std::int64_t i = 0; i < m.view.n * m.view.k / 32; ++i) {
      append(m.scales, static_cast<std::uint8_t>(centre - random.below(4)));
    }
    return;
  }
  m.view.global_scale = amplitude / 600.0F;
  for (std::int64_t i = 0; i < m.view.n * m.view.k / 16; ++i) {
    append(m.scales, static_cast<std::uint8_t>(random.below(0x7F)));
  }
}

void fill_integers(Random& random, StoredMatrix& m, float amplitude) {
  constexpr std::array kScaleTypes = {DType::f32, DType::bf16, DType::f16};
  m.view.scale_dtype = kScaleTypes[static_cast<std::size_t>(random.below(3))];
  const std::int64_t half = m.view.format == WeightFormat::int8 ? 128 : 8;
  const std::int64_t bytes = m.view.n * m.view.k * (half == 128 ? 2 : 1) / 2;
  for (std::int64_t i = 0; i < bytes; ++i) append(m.codes, static_cast<std::uint8_t>(random.below(256)));
  for (std::int64_t i = 0; i < m.view.n * m.view.num_groups(); ++i) {
    const float scale = random.uniform(0.25F, 1.0F) * amplitude / static_cast<float>(half);
    switch (m.view.scale_dtype) {
      case DType::f32: append(m.scales, scale); break;
      case DType::bf16: append(m.scales, quant::float_to_bf16(scale)); break;
      default: append(m.scales, quant::float_to_f16(scale)); break;
    }
    if (m.view.grouping.zero_points) {
      append(m.zeros, static_cast<std::int8_t>(random.below(2 * half) - half));
    }
  }
  if (!m.view.grouping.act_order) return;
  for (std::int64_t i = 0; i < m.view.k; ++i) {
    m.g_idx.push_back(static_cast<std::int32_t>(random.below(m.view.num_groups())));
  }
}

}  // namespace

std::vector<float> StoredMatrix::dequantised() const {
  std::vector<float> out(static_cast<std::size_t>(view.n * view.k));
  quant::dequantize_rows(view, 0, view.n, out.data());
  return out;
}

std::unique_ptr<StoredMatrix> random_matrix(Random& random, WeightFormat format, std::int64_t n,
                                            std::int64_t k, const quant::Grouping& grouping) {
  auto m = std::make_unique<StoredMatrix>();
  m->view = MatrixView{.format = format, .n = n, .k = k, .grouping = grouping};
  // FP8 in other groups than blocks has scales of its own for every row.
  if (format == WeightFormat::fp8 && grouping.group_k != 0) m->view.group_n = 1;
  const float amplitude = 2.0F / std::sqrt(static_cast<float>(k));
  switch (format) {
    case WeightFormat::f32:
    case WeightFormat::f16:
    case WeightFormat::bf16: fill_plain(random, *m, amplitude); break;
    case WeightFormat::fp8: fill_fp8(random, *m, amplitude); break;
    case WeightFormat::mxfp4:
    case WeightFormat::nvfp4: fill_fp4(random, *m, amplitude); break;
    case WeightFormat::int8:
    case WeightFormat::int4: fill_integers(random, *m, amplitude); break;
  }
  m->view.codes = m->codes.data();
  m->view.scales = m->scales.data();
  m->view.zeros = m->zeros.empty() ? nullptr : m->zeros.data();
  m->view.g_idx = reinterpret_cast<const std::byte*>(m->g_idx.data());
  return m;
}

Weight pack(Device& device, const std::vector<std::unique_ptr<StoredMatrix>>& sources) {
  const MatrixView& first = sources.front()->view;
  Result<Weight> weight = device.allocate_weight({.format = first.format,
                                                  .num_groups = static_cast<std::int64_t>(sources.size()),
                                                  .n = first.n,
                                                  .k = first.k,
                                                  .grouping = first.grouping});
  if (!weight) throw std::runtime_error(weight.error().message);
  for (std::size_t g = 0; g < sources.size(); ++g) {
    device.pack_rows(*weight, static_cast<std::int64_t>(g), 0, sources[g]->view, 0, first.n);
  }
  return std::move(weight).value();
}

PackedGroups random_groups(Device& device, Random& random, WeightFormat format, std::int64_t num_groups,
                           std::int64_t n, std::int64_t k, const quant::Grouping& grouping) {
  PackedGroups groups;
  for (std::int64_t g = 0; g < num_groups; ++g) {
    groups.sources.push_back(random_matrix(random, format, n, k, grouping));
    groups.weights.push_back(groups.sources.back()->dequantised());
  }
  groups.packed = pack(device, groups.sources);
  return groups;
}

}  // namespace nibble::kernels::testing
