#include "models/weight_packer.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "core/check.h"
#include "models/gate_up_partner.h"
#include "quant/int_layouts.h"
#include "quant/matrix_view.h"

namespace nibble::models {
namespace {

// Rows [begin, end) as float32, whatever they are stored in.
void dequantize(const quant::MatrixView& matrix, std::int64_t begin, std::int64_t end,
                std::vector<float>& out) {
  out.resize(static_cast<std::size_t>((end - begin) * matrix.k));
  if (matrix.layout == quant::MatrixLayout::rows) {
    quant::dequantize_rows(matrix, begin, end, out.data());
    return;
  }
  thread_local quant::RowBuffer buffer;
  const quant::MatrixView rows = quant::canonical_rows(matrix, begin, end, buffer);
  quant::dequantize_rows(rows, 0, end - begin, out.data());
}

}  // namespace

WeightPacker::WeightPacker(const std::vector<Binding>& bindings, kernels::Device& device,
                           quant::ScaleRule scales)
    : bindings_(bindings), device_(device), scales_(scales) {}

Status WeightPacker::prepare(const Binding& binding, const std::string& name) {
  NIB_TRY_STATUS(quant::check_integer_layout(binding.matrix, name));
  const bool global =
      binding.encode && binding.spec->blocks.front().weight->shape.format == quant::WeightFormat::nvfp4;
  if (!global) return {};
  float amax = amax_of(binding);
  if (const std::string partner = gate_up_partner(binding.spec->name); !partner.empty()) {
    const auto is_partner = [&](const Binding& other) { return other.spec->name == partner; };
    const auto it = std::find_if(bindings_.begin(), bindings_.end(), is_partner);
    if (it != bindings_.end() && it->spec->is_matrix()) {
      NIB_TRY_STATUS(quant::check_integer_layout(it->matrix, it->main_tensor().name));
      amax = std::max(amax, amax_of(*it));
    }
  }
  // Values that are not finite are found, and named, when their rows are packed.
  global_scale_[&binding] = quant::nvfp4_global_scale(std::isfinite(amax) ? amax : 0.0F);
  return {};
}

float WeightPacker::amax_of(const Binding& binding) {
  if (const auto it = amax_.find(&binding); it != amax_.end()) return it->second;
  const quant::MatrixView& matrix = binding.matrix;
  const std::int64_t tasks = (matrix.n + kRowUnit - 1) / kRowUnit;
  std::vector<float> maxima(static_cast<std::size_t>(tasks));
  device_.exec().threads().parallel_for(tasks, [&](std::int64_t i, int) {
    thread_local std::vector<float> rows;
    dequantize(matrix, i * kRowUnit, std::min((i + 1) * kRowUnit, matrix.n), rows);
    maxima[static_cast<std::size_t>(i)] = quant::abs_max(rows);
  });
  const float amax = maxima.empty() ? 0.0F : *std::max_element(maxima.begin(), maxima.end());
  amax_[&binding] = amax;
  return amax;
}

bool WeightPacker::pack(const Binding& binding, std::int64_t begin, std::int64_t end) {
  NIB_DCHECK(begin % kRowUnit == 0, "rows from {}", begin);
  if (binding.encode) return pack_encoded(binding, begin, end);
  for (const RowBlock& block : binding.spec->blocks) {
    const std::int64_t first = std::max(begin, block.src_row);
    const std::int64_t last = std::min(end, block.src_row + block.rows);
    if (first < last && !pack_stored(binding, block, first, last)) return false;
  }
  return true;
}

bool WeightPacker::pack_stored(const Binding& binding, const RowBlock& block, std::int64_t begin,
                               std::int64_t end) {
  const quant::MatrixView& matrix = binding.matrix;
  thread_local quant::RowBuffer buffer;
  // A strip of rows is checked, then packed: the check, which reads them in file order, leaves them in the
  // cache for the packer, which reads 16 rows side by side.
  const std::int64_t strip = device_.strip_rows(block.weight->shape);
  for (std::int64_t row = begin; row < end;) {
    const std::int64_t target = block.row + row - block.src_row;
    const std::int64_t count = std::min(strip - target % strip, end - row);
    if (matrix.layout == quant::MatrixLayout::rows) {
      if (!quant::check_finite(matrix, row, row + count, "").ok()) return false;
      device_.pack_rows(*block.weight, block.group, target, matrix, row, count);
    } else {
      const quant::MatrixView rows = quant::canonical_rows(matrix, row, row + count, buffer);
      if (!quant::check_finite(rows, "").ok()) return false;
      device_.pack_rows(*block.weight, block.group, target, rows, 0, count);
    }
    row += count;
  }
  return true;
}

quant::EncodeOptions WeightPacker::encode_options(const Binding& binding) const {
  const kernels::WeightShape& shape = binding.spec->blocks.front().weight->shape;
  const auto global = global_scale_.find(&binding);
  return {.format = shape.format,
          .group_k = quant::format_row(shape.format).any_group ? binding.target_group_k : 0,
          .scales = scales_,
          .global_scale = global != global_scale_.end() ? global->second : 1.0F};
}

bool WeightPacker::pack_encoded(const Binding& binding, std::int64_t begin, std::int64_t end) {
  thread_local std::vector<float> rows;
  const quant::EncodeOptions options = encode_options(binding);
  for (std::int64_t first = begin; first < end; first += kRowUnit) {
    const std::int64_t last = std::min(first + kRowUnit, end);
    dequantize(binding.matrix, first, last, rows);
    if (!std::isfinite(quant::abs_max(rows))) return false;
    auto encoded = quant::EncodedMatrix::allocate(last - first, binding.matrix.k, options);
    NIB_CHECK(encoded.ok(), "{}", encoded.error().message);
    quant::encode_rows(rows.data(), 0, last - first, *encoded);
    for (const RowBlock& block : binding.spec->blocks) {
      const std::int64_t from = std::max(first, block.src_row);
      const std::int64_t to = std::min(last, block.src_row + block.rows);
      if (from >= to) continue;
      device_.pack_rows(*block.weight, block.group, block.row + from - block.src_row, encoded->view(),
                        from - first, to - from);
    }
  }
  return true;
}

Error WeightPacker::not_finite(const Binding& binding, const std::string& name) {
  quant::RowBuffer buffer;
  Status status =
      quant::check_finite(quant::canonical_rows(binding.matrix, 0, binding.matrix.n, buffer), name);
  NIB_CHECK(!status.ok(), "{} was found not to be finite, and then is", name);
  return std::move(status).error();
}

}  // namespace nibble::models
