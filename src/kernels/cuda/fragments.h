// Rows of codes into the fragments of the packed layout (layout.h), on the GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/packed_weight.h"

namespace nibble::kernels::cuda {

constexpr std::uint32_t kAllRows = 0xFFFF;

// Row tiles that follow one another.
struct FragmentTiles {
  Format format;
  const std::byte* rows;  // [tile][16][num_blocks * 64 codes], page-locked or device memory, 16-byte aligned
  std::byte* codes;       // [tile][block_bytes * num_blocks], device memory
  std::int64_t num_tiles;
  std::int64_t num_blocks;
  // Bit r: row r of every tile is written; the others' codes stay as they are.
  std::uint32_t row_mask = kAllRows;
};

void launch_make_fragments(const FragmentTiles& tiles, cudaStream_t stream);

}  // namespace nibble::kernels::cuda
