#include "kernels/cpu/layout.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/cpu/pack.h"
#include "quant/matrix_view.h"

namespace nibble::kernels::cpu {

using quant::WeightFormat;

PanelLayout panel_layout(const WeightShape& shape) {
  PanelLayout l{};
  l.num_panels = ceil_div(shape.n, kPanelRows);
  l.k_pad = round_up(shape.k, 32);
  l.panel_bytes = l.k_pad / step_k(shape.format) * kStepBytes;
  l.group_code_bytes = l.num_panels * l.panel_bytes;
  if (const std::int64_t per_scale = scale_k(shape.format); per_scale != 0) {
    l.scale_panel_bytes = ceil_div(l.k_pad, per_scale) * scale_vector_bytes(shape.format);
    l.group_scale_bytes = l.num_panels * l.scale_panel_bytes;
    if (shape.format == WeightFormat::nvfp4) {
      l.globals_offset = round_up(l.group_scale_bytes, 64);
      l.group_scale_bytes = l.globals_offset + l.num_panels * kPanelRows * 4;
    }
    l.group_scale_bytes = round_up(l.group_scale_bytes, 64);
  }
  return l;
}

void decode_row(const Weight& weight, std::int64_t group, std::int64_t row, float* out) {
  const WeightShape& shape = weight.shape;
  const PanelLayout l = panel_layout(shape);
  const std::int64_t panel = row / kPanelRows;
  const std::int64_t lane = row % kPanelRows;
  const std::byte* codes = weight.codes.data() + group * weight.codes_group_bytes + panel * l.panel_bytes;
  const std::byte* scales = weight.scales.data() + group * weight.scales_group_bytes;
  const std::byte* panel_scales = scales + panel * l.scale_panel_bytes;
  const std::int64_t bytes_per_scale_lane = scale_vector_bytes(shape.format) / kPanelRows;

  // Back to checkpoint order, one k block at a time, so that the codec stays the only definition of
  // what a code means.
  for (std::int64_t k0 = 0; k0 < shape.k; k0 += kBlockK) {
    const std::int64_t block_k = std::min(kBlockK, shape.k - k0);
    std::array<std::uint32_t, kBlockK> row_codes{};
    const std::int64_t steps = ceil_div(block_k, step_k(shape.format));
    for (std::int64_t s = 0; s < steps; ++s) {
      row_codes[static_cast<std::size_t>(s)] =
          unpack_step(shape.format, codes + (k0 / step_k(shape.format) + s) * kStepBytes, lane);
    }
    std::array<std::byte, kBlockK> row_scales{};
    quant::MatrixView view{.format = shape.format,
                           .n = 1,
                           .k = block_k,
                           .codes = reinterpret_cast<const std::byte*>(row_codes.data())};
    if (const std::int64_t per_scale = scale_k(shape.format); per_scale != 0) {
      for (std::int64_t i = 0; i < ceil_div(block_k, per_scale); ++i) {
        std::memcpy(row_scales.data() + i * bytes_per_scale_lane,
                    panel_scales + (k0 / per_scale + i) * scale_vector_bytes(shape.format) +
                        lane * bytes_per_scale_lane,
                    static_cast<std::size_t>(bytes_per_scale_lane));
      }
      if (shape.format == WeightFormat::fp8) {
        float scale;
        std::memcpy(&scale, row_scales.data(), 4);
        scale /= kFp8ScaleFactor;
        std::memcpy(row_scales.data(), &scale, 4);
      }
      view.scales = row_scales.data();
      view.scale_dtype = shape.format == WeightFormat::fp8 ? DType::f32
                         : shape.format == WeightFormat::mxfp4   ? DType::f8_e8m0
                                                                 : DType::f8_e4m3;
      if (shape.format == WeightFormat::nvfp4) {
        std::memcpy(&view.global_scale, scales + l.globals_offset + row * 4, 4);
      }
    }
    quant::dequantize_rows(view, 0, 1, out + k0);
  }
}

}  // namespace nibble::kernels::cpu
