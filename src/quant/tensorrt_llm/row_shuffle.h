// Row permutations of weights for TensorRT-LLM's generated MoE kernels (Blackwell). Weights travel as rows
// of bytes: FP4 codes [rows, k / 2], or scales.
//
// The tables of the kernels are source -> destination: row r of a block of 16 or 32 rows MOVES TO
//
//   blocks of 16:  (r % 2) * 8 + r / 2     0 8 1 9 2 10 ... 7 15
//   blocks of 32:  (r % 4) * 8 + r / 4     0 8 16 24 1 9 17 25 ... 7 15 23 31
//
// so a gather has to use the inverse: the new order of old rows is 0 2 4 ... 14 1 3 ... 15, and
// 0 4 ... 28 1 5 ... 29 2 ... 30 3 ... 31. Taking the table for a gather list is the classic mistake; the
// maps are no involutions.
//
// A gated MLP's fused [2I, k] matrix is first reordered (halves interleaved), then shuffled; its scales
// take the same way in linear form and are swizzled (block_scales.h) last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "nibble/result.h"

namespace nibble::quant::tensorrt_llm {

// Rows of a matrix of `rows` rows of equal size.
struct RowMatrix {
  std::span<const std::byte> bytes;
  std::int64_t rows = 0;
};

// 32 if epilogue_tile_m is a multiple of 128, else 16.
std::int64_t shuffle_block_rows(std::int64_t epilogue_tile_m) noexcept;

// Position inside its block to which row r of it moves. block_rows is 16 or 32.
std::int64_t shuffled_row(std::int64_t r, std::int64_t block_rows) noexcept;

// shuffle_matrix_a: weights for an epilogue of epilogue_tile_m rows. bad_input unless the rows divide into
// blocks.
Result<std::vector<std::byte>> shuffle_matrix_a(const RowMatrix& matrix, std::int64_t epilogue_tile_m);
Result<std::vector<std::byte>> unshuffle_matrix_a(const RowMatrix& matrix, std::int64_t epilogue_tile_m);

// shuffle_matrix_sf_a: block scales, linear in, swizzled out: the permutation of the weights' rows, then
// swizzle_block_scales. bad_input unless rows are a multiple of 128 and columns of 4.
Result<std::vector<std::byte>> shuffle_matrix_sf_a(std::span<const std::byte> linear, std::int64_t rows,
                                                   std::int64_t columns, std::int64_t epilogue_tile_m);
Result<std::vector<std::byte>> unshuffle_matrix_sf_a(std::span<const std::byte> shuffled, std::int64_t rows,
                                                     std::int64_t columns, std::int64_t epilogue_tile_m);

// reorder_rows_for_gated_act_gemm: new rows 2i and 2i + 1 are old rows i and i + rows / 2, so that gate and
// up of a channel meet in one thread. bad_input for an odd number of rows.
Result<std::vector<std::byte>> reorder_rows_for_gated_act_gemm(const RowMatrix& matrix);
Result<std::vector<std::byte>> restore_rows_of_gated_act_gemm(const RowMatrix& matrix);

}  // namespace nibble::quant::tensorrt_llm
