#include "modules/packing.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "engine/host_memory.h"
#include "quant/encode/encode.h"
#include "quant/float16.h"

namespace nibble::modules {
namespace {

// A multiple of FP8's scale blocks and of the packers' tiles.
constexpr std::int64_t kRowsPerTask = 128;

struct Rows {
  const Part* part;
  std::int64_t group;
  std::int64_t begin;  // of the weight's rows
  std::int64_t end;

  [[nodiscard]] std::int64_t source_row() const {
    return group * part->rows_per_group + part->first_row + begin;
  }
};

std::vector<Rows> tasks_of(std::span<const Part> parts) {
  std::vector<Rows> tasks;
  for (const Part& part : parts) {
    const kernels::WeightShape& shape = part.weight->shape;
    for (std::int64_t group = 0; group < shape.num_groups; ++group) {
      for (std::int64_t row = 0; row < shape.n; row += kRowsPerTask) {
        tasks.push_back({&part, group, row, std::min(row + kRowsPerTask, shape.n)});
      }
    }
  }
  return tasks;
}

void read_rows(const Rows& rows, std::vector<float>& out) {
  const HostMatrix& matrix = *rows.part->matrix;
  const auto begin = static_cast<std::size_t>(rows.source_row() * matrix.columns);
  const auto size = static_cast<std::size_t>((rows.end - rows.begin) * matrix.columns);
  out.resize(size);
  if (!matrix.f32.empty()) {
    std::ranges::copy(matrix.f32.subspan(begin, size), out.begin());
  } else {
    std::ranges::transform(matrix.bf16.subspan(begin, size), out.begin(), quant::bf16_to_float);
  }
}

// Largest magnitude of each group over all parts; not finite if a value is not.
std::vector<float> group_maxima(kernels::Device& device, std::span<const Rows> tasks,
                                std::int64_t num_groups) {
  std::vector<float> maxima(tasks.size());
  device.exec().threads().parallel_for(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t i, int) {
    thread_local std::vector<float> values;
    read_rows(tasks[static_cast<std::size_t>(i)], values);
    maxima[static_cast<std::size_t>(i)] = quant::abs_max(values);
  });
  std::vector<float> of_group(static_cast<std::size_t>(num_groups), 0.0F);
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    float& group = of_group[static_cast<std::size_t>(tasks[i].group)];
    // Also takes over a NaN.
    if (!(maxima[i] <= group)) group = maxima[i];
  }
  return of_group;
}

Error not_finite(const Rows& rows) {
  std::vector<float> values;
  read_rows(rows, values);
  const auto bad = std::ranges::find_if(values, [](float v) { return !std::isfinite(v); });
  const auto at = static_cast<std::int64_t>(bad - values.begin());
  const std::int64_t columns = rows.part->matrix->columns;
  return bad_input(fmt::format("{} has the value {} in row {}, column {}; weights must be finite",
                               rows.part->name, *bad, rows.source_row() + at / columns, at % columns));
}

void pack_rows(kernels::Device& device, const Rows& rows, const quant::EncodeOptions& options,
               const std::vector<float>& values) {
  auto encoded = quant::EncodedMatrix::allocate(rows.end - rows.begin, rows.part->weight->shape.k, options);
  NIB_CHECK(encoded.ok(), "{}: {}", rows.part->name, encoded.error().message);
  quant::encode_rows(values.data(), 0, rows.end - rows.begin, *encoded);
  device.pack_rows(*rows.part->weight, rows.group, rows.begin, encoded->view(), 0, rows.end - rows.begin);
}

}  // namespace

Status set_scheme(kernels::Weight& weight, const quant::Scheme& scheme, const std::string& name) {
  const quant::FormatRow& row = quant::format_row(scheme.weights);
  const std::int64_t k = weight.shape.k;
  if (!row.any_group && row.group_k > 0 && k % row.group_k != 0) {
    return bad_input(fmt::format("{} has {} inputs, no multiple of the {} that share a scale in {}", name, k,
                                 row.group_k, row.name));
  }
  if (row.codes_per_byte_group > 1 && k % row.codes_per_byte_group != 0) {
    return bad_input(fmt::format("{} has {} inputs; {} needs an even number", name, k, row.name));
  }
  weight.shape.format = scheme.weights;
  weight.shape.grouping = scheme.grouping(k);
  weight.shape.activations = scheme.activations;
  return {};
}

Status check_shape(const Part& part) {
  const kernels::WeightShape& shape = part.weight->shape;
  const HostMatrix& matrix = *part.matrix;
  const std::int64_t rows = shape.num_groups * part.rows_per_group;
  if (matrix.rows != rows || matrix.columns != shape.k) {
    return bad_input(fmt::format("{} is [{}, {}], must be [{}, {}]", part.name, matrix.rows, matrix.columns,
                                 rows, shape.k));
  }
  const std::size_t values = matrix.f32.empty() ? matrix.bf16.size() : matrix.f32.size();
  if (values != static_cast<std::size_t>(rows * shape.k)) {
    return bad_input(
        fmt::format("{} [{}, {}] comes with {} values", part.name, matrix.rows, matrix.columns, values));
  }
  return {};
}

Status pack(kernels::Device& device, std::span<const Part> parts, const quant::Scheme& scheme) {
  for (const Part& part : parts) {
    NIB_TRY_STATUS(check_shape(part));
    NIB_TRY(*part.weight, device.allocate_weight(part.weight->shape));
  }
  const std::vector<Rows> tasks = tasks_of(parts);
  std::vector<float> maxima;
  if (scheme.weights == quant::WeightFormat::nvfp4) {
    maxima = group_maxima(device, tasks, parts.front().weight->shape.num_groups);
  }
  std::atomic<std::int64_t> broken{-1};
  device.exec().threads().parallel_for(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t i, int) {
    thread_local std::vector<float> values;
    const Rows& rows = tasks[static_cast<std::size_t>(i)];
    read_rows(rows, values);
    if (!std::isfinite(quant::abs_max(values))) {
      broken = i;
      return;
    }
    quant::EncodeOptions options{.format = scheme.weights, .group_k = scheme.group_k};
    if (!maxima.empty()) {
      const float amax = maxima[static_cast<std::size_t>(rows.group)];
      options.global_scale = quant::nvfp4_global_scale(std::isfinite(amax) ? amax : 0.0F);
    }
    pack_rows(device, rows, options, values);
  });
  if (broken >= 0) return not_finite(tasks[static_cast<std::size_t>(broken.load())]);
  return {};
}

Status place(kernels::Device& device, layers::Parameter& parameter, std::span<const float> values,
             const std::string& name) {
  if (values.size() != static_cast<std::size_t>(parameter.size)) {
    return bad_input(fmt::format("{} has {} values, must have {}", name, values.size(), parameter.size));
  }
  const auto bad = std::ranges::find_if(values, [](float v) { return !std::isfinite(v); });
  if (bad != values.end()) {
    return bad_input(fmt::format("{}[{}] is {}; weights must be finite", name, bad - values.begin(), *bad));
  }
  Buffer host(values.size_bytes());
  if (!values.empty()) std::memcpy(host.data(), values.data(), values.size_bytes());
  parameter.values = device.exec().memory().place(std::move(host));
  return {};
}

void place_constant(kernels::Device& device, layers::Parameter& parameter, float value) {
  Buffer host(static_cast<std::size_t>(parameter.size) * sizeof(float));
  std::fill_n(host.as<float>(), parameter.size, value);
  parameter.values = device.exec().memory().place(std::move(host));
}

Status check_room(const kernels::Device& device, std::span<kernels::Weight* const> weights,
                  std::uint64_t more) {
  std::uint64_t needed = more;
  for (const kernels::Weight* weight : weights) needed += device.weight_bytes(weight->shape);
  const std::uint64_t available = engine::available_memory(device);
  if (needed < available) return {};
  return out_of_memory(fmt::format("the module needs {} bytes of memory, {} are available; make it smaller",
                                   needed, available));
}

Status fill_dummy(kernels::Device& device, std::span<kernels::Weight* const> weights, std::uint64_t seed) {
  for (kernels::Weight* weight : weights) {
    NIB_TRY(*weight, device.allocate_weight(weight->shape));
    // Seeds of modules are near each other: spread them.
    seed = seed * 0x9E3779B97F4A7C15ULL + 0x632BE59BD9B4E019ULL;
    device.fill_dummy(*weight, seed);
  }
  return {};
}

}  // namespace nibble::modules
