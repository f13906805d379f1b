#include "kernels/cpu/layout.h"

#include <cstring>
#include <vector>

#include "kernels/cpu/pack.h"
#include "quant/matrix_view.h"

namespace nibble::kernels::cpu {

using quant::WeightFormat;

namespace {

bool is_integer(WeightFormat format) { return format == WeightFormat::int8 || format == WeightFormat::int4; }

// Zeros lie beside the scales; with act-order also those of symmetric weights, as zero.
bool has_zeros(const WeightShape& shape) {
  return is_integer(shape.format) && (shape.grouping.zero_points || shape.grouping.act_order);
}

template <class T>
T load_lane(const std::byte* vector, std::int64_t lane) {
  T value;
  std::memcpy(&value, vector + lane * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

}  // namespace

Decoder decoder_of(const WeightShape& shape) {
  const quant::Grouping& g = shape.grouping;
  switch (shape.format) {
    case WeightFormat::f32: return Decoder::f32;
    case WeightFormat::f16: return Decoder::f16;
    case WeightFormat::bf16: return Decoder::bf16;
    case WeightFormat::fp8: return Decoder::fp8;
    case WeightFormat::mxfp4: return Decoder::mxfp4;
    case WeightFormat::nvfp4: return Decoder::nvfp4;
    case WeightFormat::int8:
      return g.act_order ? Decoder::int8_act_order : g.zero_points ? Decoder::int8_zeros : Decoder::int8;
    case WeightFormat::int4:
      return g.act_order ? Decoder::int4_act_order : g.zero_points ? Decoder::int4_zeros : Decoder::int4;
  }
  return Decoder::f32;
}

std::int64_t scale_k(const WeightShape& shape) {
  const std::int64_t own = quant::format_row(shape.format).group_k;
  if (shape.grouping.group_k == 0) return own;
  // A scale per row covers whole k blocks, so that it can be applied after the sums.
  return shape.grouping.group_k >= shape.k ? round_up(shape.k, kBlockK) : shape.grouping.group_k;
}

std::int64_t scale_vector_bytes(const WeightShape& shape) {
  switch (shape.format) {
    case WeightFormat::mxfp4:
    case WeightFormat::nvfp4: return kPanelRows;
    case WeightFormat::fp8: return kPanelRows * 4;
    case WeightFormat::int8:
    case WeightFormat::int4: return kPanelRows * (has_zeros(shape) ? 5 : 4);
    default: return 0;
  }
}

PanelLayout panel_layout(const WeightShape& shape) {
  PanelLayout l{};
  l.num_panels = ceil_div(shape.n, kPanelRows);
  l.k_pad = round_up(shape.k, 32);
  l.panel_bytes = l.k_pad / step_k(shape.format) * kStepBytes;
  l.group_code_bytes = l.num_panels * l.panel_bytes;
  l.scale_k = scale_k(shape);
  if (l.scale_k == 0) return l;
  l.scale_bytes = scale_vector_bytes(shape);
  l.scale_panel_bytes = ceil_div(l.k_pad, l.scale_k) * l.scale_bytes;
  l.group_scale_bytes = round_up(l.num_panels * l.scale_panel_bytes, 64);
  if (shape.format == WeightFormat::nvfp4) {
    l.globals_offset = l.group_scale_bytes;
    l.group_scale_bytes += l.num_panels * kPanelRows * 4;
  }
  if (shape.grouping.act_order) {
    l.g_idx_offset = l.group_scale_bytes;
    l.group_scale_bytes += l.k_pad * 4;
  }
  l.group_scale_bytes = round_up(l.group_scale_bytes, 64);
  return l;
}

void decode_row(const Weight& weight, std::int64_t group, std::int64_t row, float* out) {
  const WeightShape& shape = weight.shape;
  const PanelLayout l = panel_layout(shape);
  const std::int64_t panel = row / kPanelRows;
  const std::int64_t lane = row % kPanelRows;
  const std::byte* scales = weight.scales.data() + group * weight.scales_group_bytes;
  const std::byte* panel_scales = scales + panel * l.scale_panel_bytes;

  // Back to checkpoint order, so that the codec stays the only definition of what a code means.
  std::vector<std::uint32_t> codes(static_cast<std::size_t>(l.k_pad / step_k(shape.format)));
  const std::byte* steps = weight.codes.data() + group * weight.codes_group_bytes + panel * l.panel_bytes;
  for (std::size_t s = 0; s < codes.size(); ++s) {
    codes[s] = unpack_step(shape.format, steps + static_cast<std::int64_t>(s) * kStepBytes, lane);
  }
  quant::MatrixView view{.format = shape.format,
                         .n = 1,
                         .k = shape.k,
                         .codes = reinterpret_cast<const std::byte*>(codes.data()),
                         .group_n = 1,
                         .grouping = shape.grouping};
  const std::int64_t groups = view.num_groups();
  std::vector<float> wide(static_cast<std::size_t>(groups));
  std::vector<std::uint8_t> narrow(static_cast<std::size_t>(groups));
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::byte* vector = panel_scales + g * l.scale_bytes;
    const auto i = static_cast<std::size_t>(g);
    if (l.scale_bytes == kPanelRows) {
      narrow[i] = load_lane<std::uint8_t>(vector, lane);
      continue;
    }
    wide[i] = load_lane<float>(vector, lane);
    if (shape.format == WeightFormat::fp8) wide[i] /= kFp8ScaleFactor;
    if (has_zeros(shape)) narrow[i] = load_lane<std::uint8_t>(vector + kPanelRows * 4, lane);
  }
  if (l.scale_bytes == kPanelRows) {
    view.scales = reinterpret_cast<const std::byte*>(narrow.data());
    view.scale_dtype = shape.format == WeightFormat::mxfp4 ? DType::f8_e8m0 : DType::f8_e4m3;
  } else {
    view.scales = reinterpret_cast<const std::byte*>(wide.data());
    view.grouping.zero_points = has_zeros(shape);
    view.zeros = reinterpret_cast<const std::byte*>(narrow.data());
  }
  if (l.globals_offset != 0) view.global_scale = load_lane<float>(scales + l.globals_offset, row);
  if (shape.grouping.act_order) view.g_idx = scales + l.g_idx_offset;
  quant::dequantize_rows(view, 0, 1, out);
}

}  // namespace nibble::kernels::cpu
