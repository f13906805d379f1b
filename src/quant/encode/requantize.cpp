#include "quant/encode/requantize.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "core/check.h"
#include "quant/encode/encoder.h"
#include "quant/encode/lane_rounding.h"
#include "quant/int_layouts.h"

namespace nibble::quant {
namespace {

// Decoded rows stay in the L2 cache between decoding, encoding and comparing.
constexpr std::int64_t kWeightsPerTask = 32 * 1024;

// Rows of a task: whole blocks of the source's and the target's scales.
std::int64_t rows_per_task(const MatrixView& source, std::int64_t block) {
  const bool blocks = source.rows_per_scale() > 1 && source.rows_per_scale() < source.n;
  const std::int64_t unit = std::max(block, blocks ? source.rows_per_scale() : 1);
  const std::int64_t rows = std::max<std::int64_t>(kWeightsPerTask / std::max<std::int64_t>(source.k, 1), 1);
  return (rows + unit - 1) / unit * unit;
}

std::size_t num_tasks(const MatrixView& source, std::int64_t block) {
  const std::int64_t rows = rows_per_task(source, block);
  return static_cast<std::size_t>((source.n + rows - 1) / rows);
}

EncodeError measure_row(const float* w, const float* decoded, std::int64_t k) {
  std::array<double, kLanes> errors{};
  std::array<double, kLanes> squares{};
  std::int32_t largest = 0;
  const auto add = [&](std::int64_t i, std::size_t lane) {
    const float error = w[i] - decoded[i];
    errors[lane] += static_cast<double>(error) * static_cast<double>(error);
    squares[lane] += static_cast<double>(w[i]) * static_cast<double>(w[i]);
    largest = max_lane(abs_bits(error), largest);
  };
  std::int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) add(i + static_cast<std::int64_t>(lane), lane);
  }
  for (; i < k; ++i) add(i, 0);
  return {.squared_error = std::accumulate(errors.begin(), errors.end(), 0.0),
          .squares = std::accumulate(squares.begin(), squares.end(), 0.0),
          .max_error = std::bit_cast<float>(largest)};
}

NIB_FOR_AVX2 EncodeError measure_row_avx2(const float* w, const float* decoded, std::int64_t k) {
  return measure_row(w, decoded, k);
}

// Calls fn(task, rows, row_begin, row_end) with the decoded rows of each task; `block`: what it begins at
// multiples of.
template <class Fn>
void for_decoded_rows(const MatrixView& source, std::int64_t block, ThreadPool& threads, Fn&& fn) {
  struct Scratch {
    std::vector<float> rows;
    RowBuffer canonical;
  };
  std::vector<Scratch> buffers(static_cast<std::size_t>(threads.num_threads()));
  const std::int64_t step = rows_per_task(source, block);
  threads.parallel_for(static_cast<std::int64_t>(num_tasks(source, block)),
                       [&](std::int64_t task, int thread) {
                         const std::int64_t begin = task * step;
                         const std::int64_t end = std::min(begin + step, source.n);
                         Scratch& scratch = buffers[static_cast<std::size_t>(thread)];
                         scratch.rows.resize(static_cast<std::size_t>((end - begin) * source.k));
                         if (source.layout == MatrixLayout::rows) {
                           dequantize_rows(source, begin, end, scratch.rows.data());
                         } else {
                           dequantize_rows(canonical_rows(source, begin, end, scratch.canonical), 0,
                                           end - begin, scratch.rows.data());
                         }
                         fn(static_cast<std::size_t>(task), std::span<const float>(scratch.rows), begin, end);
                       });
}

// One sum per task, added in order: the same on any number of threads.
EncodeError sum_of(const std::vector<EncodeError>& errors) {
  EncodeError total;
  for (const EncodeError& error : errors) total += error;
  return total;
}

void check_shapes(const MatrixView& source, const EncodedMatrix& out) {
  const MatrixView to = out.view();
  NIB_CHECK(source.n == to.n && source.k == to.k, "source [{}, {}], destination [{}, {}]", source.n, source.k,
            to.n, to.k);
}

}  // namespace

EncodeError& EncodeError::operator+=(const EncodeError& other) noexcept {
  squared_error += other.squared_error;
  squares += other.squares;
  max_error = std::max(max_error, other.max_error);
  return *this;
}

double EncodeError::relative() const noexcept {
  return squares > 0.0 ? std::sqrt(squared_error / squares) : 0.0;
}

EncodeError measure_error(const float* rows, std::int64_t row_begin, std::int64_t row_end,
                          const MatrixView& encoded) {
  EncodeError total;
  std::vector<float> decoded(static_cast<std::size_t>(encoded.k));
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    dequantize_rows(encoded, row, row + 1, decoded.data());
    const float* w = rows + (row - row_begin) * encoded.k;
    total += has_avx2() ? measure_row_avx2(w, decoded.data(), encoded.k)
                        : measure_row(w, decoded.data(), encoded.k);
  }
  return total;
}

EncodeError measure_error(const MatrixView& source, const MatrixView& encoded, ThreadPool& threads) {
  std::vector<EncodeError> errors(num_tasks(source, encoded.rows_per_scale()));
  for_decoded_rows(source, encoded.rows_per_scale(), threads,
                   [&](std::size_t task, std::span<const float> rows, std::int64_t begin, std::int64_t end) {
                     errors[task] = measure_error(rows.data(), begin, end, encoded);
                   });
  return sum_of(errors);
}

float abs_max(const MatrixView& matrix, ThreadPool& threads) {
  std::vector<std::uint32_t> largest(num_tasks(matrix, 1));
  for_decoded_rows(matrix, 1, threads,
                   [&](std::size_t task, std::span<const float> rows, std::int64_t, std::int64_t) {
                     largest[task] = abs_max_bits(rows.data(), static_cast<std::int64_t>(rows.size()));
                   });
  return largest.empty() ? 0.0F : std::bit_cast<float>(*std::ranges::max_element(largest));
}

std::vector<float> decode_matrix(const MatrixView& matrix, ThreadPool& threads) {
  std::vector<float> weights(static_cast<std::size_t>(matrix.n * matrix.k));
  for_decoded_rows(matrix, 1, threads,
                   [&](std::size_t, std::span<const float> rows, std::int64_t begin, std::int64_t) {
                     std::ranges::copy(rows, weights.begin() + begin * matrix.k);
                   });
  return weights;
}

Result<EncodeError> requantize(const MatrixView& source, EncodedMatrix& out, std::string_view name,
                               ThreadPool& threads) {
  check_shapes(source, out);
  NIB_TRY_STATUS(check_integer_layout(source, name));
  const std::int64_t block = out.rows_per_block();
  std::vector<EncodeError> errors(num_tasks(source, block));
  std::atomic<bool> finite{true};
  for_decoded_rows(source, block, threads,
                   [&](std::size_t task, std::span<const float> rows, std::int64_t begin, std::int64_t end) {
                     if (!std::isfinite(abs_max(rows))) {
                       finite = false;
                       return;
                     }
                     encode_rows(rows.data(), begin, end, out);
                     errors[task] = measure_error(rows.data(), begin, end, out.view());
                   });
  if (finite) return sum_of(errors);
  RowBuffer buffer;
  Status status = check_finite(canonical_rows(source, 0, source.n, buffer), name);
  NIB_CHECK(!status.ok(), "{} was found not to be finite, and then is", name);
  return std::move(status).error();
}

}  // namespace nibble::quant
