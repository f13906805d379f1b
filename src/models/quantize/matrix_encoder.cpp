#include "models/quantize/matrix_encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/check.h"

namespace nibble::models {
namespace {

using quant::MatrixView;

// Decoded rows stay in the L2 cache between decoding, encoding and comparing.
constexpr std::int64_t kWeightsPerTask = 32 * 1024;

// Rows of a task: whole blocks of the source's and the target's scales.
std::int64_t rows_per_task(const MatrixView& source, std::int64_t block) {
  const bool blocks = source.rows_per_scale() > 1 && source.rows_per_scale() < source.n;
  const std::int64_t unit = std::max(block, blocks ? source.rows_per_scale() : 1);
  const std::int64_t rows = std::max<std::int64_t>(kWeightsPerTask / std::max<std::int64_t>(source.k, 1), 1);
  return (rows + unit - 1) / unit * unit;
}

}  // namespace

MatrixEncoder::MatrixEncoder(ThreadPool& threads)
    : threads_(threads), scratch_(static_cast<std::size_t>(threads.num_threads())) {}

// Calls fn(task, decoded rows, row_begin, row_end) for all rows.
template <class Fn>
void MatrixEncoder::for_rows(const MatrixView& source, std::int64_t block, Fn&& fn) {
  const std::int64_t step = rows_per_task(source, block);
  threads_.parallel_for((source.n + step - 1) / step, [&](std::int64_t task, int thread) {
    const std::int64_t begin = task * step;
    const std::int64_t end = std::min(begin + step, source.n);
    Scratch& scratch = scratch_[static_cast<std::size_t>(thread)];
    scratch.rows.resize(static_cast<std::size_t>((end - begin) * source.k));
    if (source.layout == quant::MatrixLayout::rows) {
      quant::dequantize_rows(source, begin, end, scratch.rows.data());
    } else {
      const MatrixView rows = quant::canonical_rows(source, begin, end, scratch.canonical);
      quant::dequantize_rows(rows, 0, end - begin, scratch.rows.data());
    }
    fn(task, scratch.rows, begin, end);
  });
}

float MatrixEncoder::abs_max(const MatrixView& source) {
  const std::int64_t step = rows_per_task(source, 1);
  std::vector<float> maxima(static_cast<std::size_t>((source.n + step - 1) / step));
  for_rows(source, 1, [&](std::int64_t task, const std::vector<float>& rows, std::int64_t, std::int64_t) {
    maxima[static_cast<std::size_t>(task)] = quant::abs_max(rows);
  });
  float largest = 0.0F;
  for (const float value : maxima) {
    if (!(value <= largest)) largest = value;  // NaN stays
    if (std::isnan(largest)) break;
  }
  return largest;
}

Result<EncodedResult> MatrixEncoder::encode(const MatrixView& source, const quant::EncodeOptions& options,
                                            const std::string& name) {
  NIB_TRY_STATUS(quant::check_integer_layout(source, name));
  auto allocated = quant::EncodedMatrix::allocate(source.n, source.k, options);
  if (!allocated.ok()) return std::move(allocated).error().with_context(name);
  EncodedResult result{.matrix = std::move(allocated).value(), .error = {}};
  const std::int64_t block = result.matrix.rows_per_block();
  const std::int64_t step = rows_per_task(source, block);
  // One sum per task, added in order: the same on any number of threads.
  std::vector<quant::EncodeError> errors(static_cast<std::size_t>((source.n + step - 1) / step));
  std::atomic<bool> finite{true};
  for_rows(source, block,
           [&](std::int64_t task, const std::vector<float>& rows, std::int64_t begin, std::int64_t end) {
             if (!std::isfinite(quant::abs_max(rows))) {
               finite = false;
               return;
             }
             quant::encode_rows(rows.data(), begin, end, result.matrix);
             errors[static_cast<std::size_t>(task)] =
                 quant::measure_error(rows.data(), begin, end, result.matrix.view());
           });
  if (!finite) {
    quant::RowBuffer buffer;
    Status status = quant::check_finite(quant::canonical_rows(source, 0, source.n, buffer), name);
    NIB_CHECK(!status.ok(), "{} was found not to be finite, and then is", name);
    return std::move(status).error();
  }
  for (const quant::EncodeError& error : errors) result.error += error;
  return result;
}

}  // namespace nibble::models
