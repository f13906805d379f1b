#include "modules/decoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <numeric>

#include "quant/activations.h"

namespace nibble::modules {
namespace {

// Floats decoded at a time.
constexpr std::int64_t kStripFloats = std::int64_t{4} << 20;

// One matrix of a weight as a weight of its own; the memory stays the other's.
kernels::Weight group_of(const kernels::Weight& weight, std::int64_t group) {
  static const std::shared_ptr<const void> borrowed = std::make_shared<int>(0);
  const auto part = [&](const Buffer& all, std::int64_t bytes) {
    if (all.empty()) return Buffer();
    const std::int64_t size = weight.shape.num_groups == 1 ? static_cast<std::int64_t>(all.size()) : bytes;
    return Buffer(all.data() + group * bytes, static_cast<std::size_t>(size), borrowed);
  };
  kernels::Weight one;
  one.shape = weight.shape;
  one.shape.num_groups = 1;
  one.codes = part(weight.codes, weight.codes_group_bytes);
  one.scales = part(weight.scales, weight.scales_group_bytes);
  one.codes_group_bytes = weight.codes_group_bytes;
  one.scales_group_bytes = weight.scales_group_bytes;
  return one;
}

}  // namespace

double dot(const double* a, const float* b, std::int64_t n) {
  constexpr std::int64_t kLanes = 8;  // independent sums, which become vectors
  std::array<double, kLanes> sums{};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t j = 0; j < kLanes; ++j)
      sums[static_cast<std::size_t>(j)] += a[i + j] * static_cast<double>(b[i + j]);
  }
  for (; i < n; ++i) sums[0] += a[i] * static_cast<double>(b[i]);
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

const float* Decoder::rows(const kernels::Weight& weight, std::int64_t group, std::int64_t begin,
                           std::int64_t end) {
  MemorySpace& memory = device_.exec().memory();
  const std::int64_t count = end - begin;
  const std::size_t id_bytes = static_cast<std::size_t>(count) * sizeof(std::int32_t);
  const std::size_t row_bytes = static_cast<std::size_t>(count * weight.shape.k) * sizeof(float);
  const std::size_t row_offset = (id_bytes + 255) / 256 * 256;
  if (on_device_.size() < row_offset + row_bytes) on_device_ = memory.allocate(row_offset + row_bytes);
  if (staging_.size() < id_bytes) staging_ = memory.allocate_staging(id_bytes);
  std::iota(staging_.as<std::int32_t>(), staging_.as<std::int32_t>() + count,
            static_cast<std::int32_t>(begin));
  memory.upload(on_device_.data(), staging_.bytes().first(id_bytes));
  std::byte* const values = on_device_.data() + row_offset;
  const kernels::Weight one = group_of(weight, group);
  device_.table().embed(device_.exec(), {.ids = on_device_.as<const std::int32_t>(),
                                         .table = one,
                                         .y = make_view(values, DType::f32, {count, weight.shape.k})});
  host_.resize(static_cast<std::size_t>(count * weight.shape.k));
  memory.download({reinterpret_cast<std::byte*>(host_.data()), row_bytes}, values);
  return host_.data();
}

Rows64 Decoder::product(const Rows64& input, const kernels::Weight& weight, std::int64_t group) {
  const kernels::WeightShape& shape = weight.shape;
  NIB_CHECK(input.width == shape.k, "{} inputs of a weight [{}, {}]", input.width, shape.n, shape.k);
  const Rows64 x = quantised(shape.activations, input);
  const std::int64_t m = x.rows();
  Rows64 y{.width = shape.n, .values = std::vector<double>(static_cast<std::size_t>(m * shape.n))};
  const std::int64_t strip = std::clamp<std::int64_t>(kStripFloats / shape.k, 1, shape.n);
  for (std::int64_t begin = 0; begin < shape.n; begin += strip) {
    const std::int64_t end = std::min(begin + strip, shape.n);
    const float* const w = rows(weight, group, begin, end);
    device_.exec().threads().parallel_for(end - begin, [&](std::int64_t row, int) {
      for (std::int64_t i = 0; i < m; ++i) y.row(i)[begin + row] = dot(x.row(i), w + row * shape.k, shape.k);
    });
  }
  return y;
}

Rows64 quantised(quant::ActivationFormat format, Rows64 x) {
  if (format == quant::ActivationFormat::none) return x;
  std::vector<float> row(static_cast<std::size_t>(x.width));
  for (std::int64_t i = 0; i < x.rows(); ++i) {
    std::transform(x.row(i), x.row(i) + x.width, row.begin(), [](double v) { return static_cast<float>(v); });
    quant::quantize_dequantize(format, row.data(), x.width, row.data());
    std::ranges::copy(row, x.row(i));
  }
  return x;
}

Rows64 gated(Decoder& decoder, const Rows64& x, const kernels::Weight& gate, const kernels::Weight& up,
             std::int64_t group) {
  Rows64 hidden = decoder.product(x, gate, group);
  const Rows64 factor = decoder.product(x, up, group);
  for (std::size_t i = 0; i < hidden.values.size(); ++i) {
    const double g = hidden.values[i];
    hidden.values[i] = g / (1.0 + std::exp(-g)) * factor.values[i];
  }
  return hidden;
}

Rows64 gated_mlp(Decoder& decoder, const Rows64& x, const kernels::Weight& gate, const kernels::Weight& up,
                 const kernels::Weight& down, std::int64_t group) {
  return decoder.product(gated(decoder, x, gate, up, group), down, group);
}

}  // namespace nibble::modules
