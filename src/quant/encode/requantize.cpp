#include "quant/encode/requantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/check.h"
#include "quant/encode/encoder.h"
#include "quant/encode/lane_rounding.h"

namespace nibble::quant {
namespace {

// Decoded rows stay in the L2 cache between decoding and encoding.
constexpr std::int64_t kWeightsPerTask = 32 * 1024;

std::int64_t rows_per_task(std::int64_t k, std::int64_t block) {
  const std::int64_t rows = std::max<std::int64_t>(kWeightsPerTask / std::max<std::int64_t>(k, 1), 1);
  return (rows + block - 1) / block * block;
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

// Calls fn(task, rows, row_begin, row_end) with the decoded rows of each task.
template <class Fn>
void for_decoded_rows(const MatrixView& source, std::int64_t task_rows, ThreadPool& threads, Fn&& fn) {
  std::vector<std::vector<float>> buffers(static_cast<std::size_t>(threads.num_threads()));
  threads.parallel_for((source.n + task_rows - 1) / task_rows, [&](std::int64_t task, int thread) {
    const std::int64_t begin = task * task_rows;
    const std::int64_t end = std::min(begin + task_rows, source.n);
    std::vector<float>& rows = buffers[static_cast<std::size_t>(thread)];
    rows.resize(static_cast<std::size_t>(task_rows * source.k));
    dequantize_rows(source, begin, end, rows.data());
    fn(task, rows.data(), begin, end);
  });
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
    total += measure_row(rows + (row - row_begin) * encoded.k, decoded.data(), encoded.k);
  }
  return total;
}

float abs_max(const MatrixView& matrix, ThreadPool& threads) {
  const std::int64_t task_rows = rows_per_task(matrix.k, 1);
  std::vector<std::uint32_t> largest(static_cast<std::size_t>((matrix.n + task_rows - 1) / task_rows));
  for_decoded_rows(matrix, task_rows, threads,
                   [&](std::int64_t task, const float* rows, std::int64_t begin, std::int64_t end) {
                     largest[static_cast<std::size_t>(task)] = abs_max_bits(rows, (end - begin) * matrix.k);
                   });
  return largest.empty() ? 0.0F : std::bit_cast<float>(*std::ranges::max_element(largest));
}

EncodeError requantize(const MatrixView& source, EncodedMatrix& out, ThreadPool& threads) {
  check_shapes(source, out);
  const std::int64_t task_rows = rows_per_task(source.k, out.rows_per_block());
  // One sum per task, added in order: the same on any number of threads.
  std::vector<EncodeError> errors(static_cast<std::size_t>((source.n + task_rows - 1) / task_rows));
  for_decoded_rows(source, task_rows, threads,
                   [&](std::int64_t task, const float* rows, std::int64_t begin, std::int64_t end) {
                     encode_rows(rows, begin, end, out);
                     errors[static_cast<std::size_t>(task)] = measure_error(rows, begin, end, out.view());
                   });
  EncodeError total;
  for (const EncodeError& error : errors) total += error;
  return total;
}

void requantize_unmeasured(const MatrixView& source, EncodedMatrix& out, ThreadPool& threads) {
  check_shapes(source, out);
  for_decoded_rows(source, rows_per_task(source.k, out.rows_per_block()), threads,
                   [&](std::int64_t, const float* rows, std::int64_t begin, std::int64_t end) {
                     encode_rows(rows, begin, end, out);
                   });
}

}  // namespace nibble::quant
