// What a kernel gets of a packed weight: addresses and sizes, no owners. Small enough for device code to
// include; layout.h says where things lie.
#pragma once

#include <cstddef>
#include <cstdint>

// For functions that both compilers see.
#ifdef __CUDACC__
#define NIB_HOST_DEVICE __host__ __device__
#else
#define NIB_HOST_DEVICE
#endif

namespace nibble::kernels::cuda {

// quant::WeightFormat, value for value (checked in layout.cpp); device code includes nothing of quant/.
enum class Format : std::uint8_t { f32, f16, bf16, fp8, mxfp4, nvfp4, int8, int4 };

inline constexpr int kTileRows = 16;
inline constexpr int kBlockK = 64;
// Wide scales never change inside so many packed columns.
inline constexpr int kChunkK = 32;

NIB_HOST_DEVICE constexpr int format_bits(Format format) {
  switch (format) {
    case Format::f32: return 32;
    case Format::f16:
    case Format::bf16: return 16;
    case Format::fp8:
    case Format::int8: return 8;
    default: return 4;
  }
}
// Bytes of one block: kTileRows x kBlockK codes.
NIB_HOST_DEVICE constexpr int block_bytes(Format format) {
  return kTileRows * kBlockK * format_bits(format) / 8;
}

// e2m1 with a byte of scale per 32 or 16 weights.
NIB_HOST_DEVICE constexpr bool has_narrow_scales(Format format) {
  return format == Format::mxfp4 || format == Format::nvfp4;
}
// Codes with a float32 scale per row and group.
NIB_HOST_DEVICE constexpr bool has_wide_scales(Format format) {
  return format == Format::fp8 || format == Format::int8 || format == Format::int4;
}
// Bytes of narrow scales beside one block.
NIB_HOST_DEVICE constexpr int scale_block_bytes(Format format) {
  return format == Format::mxfp4 ? 32 : format == Format::nvfp4 ? 64 : 0;
}

struct PackedWeight {
  const std::byte* codes = nullptr;
  const std::byte* scales = nullptr;
  std::int64_t tile_code_bytes = 0;  // between row tiles
  std::int64_t tile_scale_bytes = 0;
  std::int64_t group_code_bytes = 0;  // between groups (experts, heads)
  std::int64_t group_scale_bytes = 0;
  std::int64_t permutation_offset = 0;  // act-order: in a group's scales; else 0
  std::int32_t factors_offset = 0;      // narrow scales: in a tile's scales
  std::int32_t zeros_offset = 0;        // in a tile's scales; 0 = no zero points
  std::int32_t n = 0;
  std::int32_t k = 0;
  std::int32_t num_tiles = 0;
  std::int32_t num_blocks = 0;        // of a row tile: packed columns / kBlockK
  std::int32_t num_groups = 0;        // matrices packed one after another
  std::int32_t scale_groups = 0;      // wide: scale groups of a row; else 0
  std::int32_t chunks_per_scale = 1;  // wide: kChunkK columns per scale group
  // For chunk / chunks_per_scale without a division: the high half of a product; 0 = chunks_per_scale is 1.
  std::uint32_t scale_magic = 0;
  Format format = Format::f32;
};

}  // namespace nibble::kernels::cuda
