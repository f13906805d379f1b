#include "quant/tensorrt_llm/row_shuffle.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "quant/tensorrt_llm/block_scales.h"

namespace nibble::quant::tensorrt_llm {
namespace {

enum class Direction : std::uint8_t { forward, backward };

// Moves row r to destination(r), or back from there.
template <class Fn>
std::vector<std::byte> move_rows(const RowMatrix& matrix, Direction direction, Fn&& destination) {
  NIB_CHECK(matrix.rows == 0 ? matrix.bytes.empty()
                             : matrix.bytes.size() % static_cast<std::size_t>(matrix.rows) == 0,
            "{} bytes in {} rows", matrix.bytes.size(), matrix.rows);
  std::vector<std::byte> moved(matrix.bytes.size());
  const std::int64_t row_bytes =
      matrix.rows == 0 ? 0 : static_cast<std::int64_t>(matrix.bytes.size()) / matrix.rows;
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    const std::int64_t other = destination(r);
    const std::int64_t from = direction == Direction::forward ? r : other;
    const std::int64_t to = direction == Direction::forward ? other : r;
    std::copy_n(matrix.bytes.begin() + from * row_bytes, row_bytes, moved.begin() + to * row_bytes);
  }
  return moved;
}

Result<std::vector<std::byte>> move_in_blocks(const RowMatrix& matrix, std::int64_t epilogue_tile_m,
                                              Direction direction) {
  const std::int64_t block = shuffle_block_rows(epilogue_tile_m);
  if (matrix.rows % block != 0) {
    return bad_input(
        fmt::format("{} rows cannot be shuffled for an epilogue tile of {}; expected a multiple of {}",
                    matrix.rows, epilogue_tile_m, block));
  }
  return move_rows(matrix, direction,
                   [=](std::int64_t r) { return r / block * block + shuffled_row(r % block, block); });
}

Result<std::vector<std::byte>> interleave_halves(const RowMatrix& matrix, Direction direction) {
  if (matrix.rows % 2 != 0) {
    return bad_input(fmt::format("{} rows cannot be gate and up rows; expected an even number", matrix.rows));
  }
  const std::int64_t half = matrix.rows / 2;
  return move_rows(matrix, direction, [=](std::int64_t r) { return r < half ? 2 * r : 2 * (r - half) + 1; });
}

Status check_whole_atoms(std::int64_t rows, std::int64_t columns) {
  if (rows % 128 == 0 && columns % 4 == 0) return {};
  return bad_input(fmt::format("block scales of {} x {} cannot be shuffled; expected multiples of 128 x 4",
                               rows, columns));
}

}  // namespace

std::int64_t shuffle_block_rows(std::int64_t epilogue_tile_m) noexcept {
  return epilogue_tile_m % 128 == 0 ? 32 : 16;
}

std::int64_t shuffled_row(std::int64_t r, std::int64_t block_rows) noexcept {
  const std::int64_t groups = block_rows / 8;
  return r % groups * 8 + r / groups;
}

Result<std::vector<std::byte>> shuffle_matrix_a(const RowMatrix& matrix, std::int64_t epilogue_tile_m) {
  return move_in_blocks(matrix, epilogue_tile_m, Direction::forward);
}

Result<std::vector<std::byte>> unshuffle_matrix_a(const RowMatrix& matrix, std::int64_t epilogue_tile_m) {
  return move_in_blocks(matrix, epilogue_tile_m, Direction::backward);
}

Result<std::vector<std::byte>> shuffle_matrix_sf_a(std::span<const std::byte> linear, std::int64_t rows,
                                                   std::int64_t columns, std::int64_t epilogue_tile_m) {
  NIB_TRY_STATUS(check_whole_atoms(rows, columns));
  NIB_TRY(const std::vector<std::byte> moved, shuffle_matrix_a({linear, rows}, epilogue_tile_m));
  return swizzle_block_scales(moved, {.rows = rows, .columns = columns});
}

Result<std::vector<std::byte>> unshuffle_matrix_sf_a(std::span<const std::byte> shuffled, std::int64_t rows,
                                                     std::int64_t columns, std::int64_t epilogue_tile_m) {
  NIB_TRY_STATUS(check_whole_atoms(rows, columns));
  const std::vector<std::byte> linear = unswizzle_block_scales(shuffled, {.rows = rows, .columns = columns});
  return unshuffle_matrix_a({linear, rows}, epilogue_tile_m);
}

Result<std::vector<std::byte>> reorder_rows_for_gated_act_gemm(const RowMatrix& matrix) {
  return interleave_halves(matrix, Direction::forward);
}

Result<std::vector<std::byte>> restore_rows_of_gated_act_gemm(const RowMatrix& matrix) {
  return interleave_halves(matrix, Direction::backward);
}

}  // namespace nibble::quant::tensorrt_llm
