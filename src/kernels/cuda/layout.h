// Packed weight layout of the CUDA backend ("fragment layout"): one for all kernels.
//
// Rows are cut into tiles of 16, columns into blocks of 64, padded with codes that decode to zero; rows that
// are not there are zero bytes, in the scales too.
// A block is what one warp reads with whole 16-byte loads: lane (g = lane / 4, t = lane % 4) finds its A
// fragments of four mma.m16n8k16 steps: a0 = (row g, k 2t and 2t + 1), a1 = (row g + 8, same k),
// a2 = (row g, k + 8), a3 = (row g + 8, k + 8). Four row tiles are the A operand of one wgmma, so prefill
// reads the same bytes. A block is [vector][lane] of 16 bytes:
//   4 bits    1 vector: word j = step j; its low half has the even-k codes of a0..a3, its high half the odd-k
//             ones. e2m1 in a half: a0 sign 15 magnitude 8..6, a1 12 and 5..3, a2 9 and 2..0,
//             a3 sign 14, magnitude's high bits 11..10, low bit 13. int4 (plus 8): a0 3..0, a1 7..4, ...
//   8 bits    2 vectors: words 2i and 2i + 1 = step i; even word a0 in bytes 1 and 3, a1 in 0 and 2; odd word
//             a2 and a3 likewise.
//   16 bits   4 vectors: vector j = a0..a3 of step j.
//   f32       8 vectors: 2j = the pairs of a0 and a1 of step j, 2j + 1 = of a2 and a3.
// Blocks lie [group][row tile][block].
//
// Scales lie apart, one record per row tile, [group][row tile]:
//   mxfp4       [block][g]{row g: 2 bytes, row g + 8: 2 bytes}, then f32 [16] factors. A byte is the exponent
//               field of the bf16 that takes code * 2^-126 to weight / factor. The factor is half of the
//               row's largest scale, whose byte is 254: weights / factor reach from -12 to 12.
//   nvfp4       [block][g]{row g: 4 bytes, row g + 8: 4 bytes}, then f32 [16] factors: global scale * 2^8.
//               A byte is an unsigned E5M3, bias 21. Groups whose scale is zero or negative are put right in
//               the codes.
//   fp8, int8, int4
//               f32 [scale group][16], then with zero points i8 [scale group][16].
// With act-order columns are sorted by group and every group is padded to a multiple of 32 columns: scale
// groups are then of 32 columns, and i32 [packed columns] at the end of a group's scales says which input a
// column multiplies (-1: padding).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/packed_weight.h"
#include "kernels/weight.h"
#include "quant/matrix_view.h"

namespace nibble::kernels::cuda {

struct PackedLayout {
  std::int64_t num_tiles = 0;
  std::int64_t num_blocks = 0;  // of a row tile
  std::int64_t tile_code_bytes = 0;
  std::int64_t tile_scale_bytes = 0;
  std::int64_t factors_offset = 0;  // in a tile's scales; 0 = none
  std::int64_t zeros_offset = 0;    // in a tile's scales; 0 = none
  std::int64_t scale_groups = 0;    // wide scales of a row
  std::int64_t chunks_per_scale = 1;
  std::int64_t permutation_offset = 0;  // in a group's scales; 0 = none
  std::int64_t permutation_bytes = 0;
  std::int64_t group_code_bytes = 0;
  std::int64_t group_scale_bytes = 0;
};

PackedLayout packed_layout(const WeightShape& shape);

// Of all groups, codes and scales.
std::size_t weight_bytes(const WeightShape& shape);

// Prepares source rows [src_row, src_row + rows) as ceil(rows / 16) whole row tiles, for fragments.h:
// codes[tile_code_bytes * tiles] as rows of codes in packed column order, scales[tile_scale_bytes * tiles] as
// they lie in the layout. Host memory of any alignment (scales may be null if tile_scale_bytes is 0). Rows
// missing from the last tile are zero bytes, which decode to zero.
void stage_tiles(const WeightShape& shape, const quant::MatrixView& src, std::int64_t src_row,
                 std::int64_t rows, std::byte* codes, std::byte* scales);

// One row tile: source rows [src_row, src_row + rows) become its rows [first, first + rows), the others
// zero. first + rows <= 16.
void stage_tile(const WeightShape& shape, const quant::MatrixView& src, std::int64_t src_row,
                std::int64_t rows, std::int64_t first, std::byte* codes, std::byte* scales);

// Copies what a tile's packed scales hold of one of its rows.
void copy_row_scales(const WeightShape& shape, std::int64_t row, const std::byte* from, std::byte* to);

// With act-order: fills permutation_bytes, the same for all rows of a group.
void pack_permutation(const WeightShape& shape, const quant::MatrixView& src, std::byte* permutation);

// For kernels; the weight must outlive it.
PackedWeight packed_weight(const Weight& weight);

}  // namespace nibble::kernels::cuda
