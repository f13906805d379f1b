#include "kernels/cuda/fragments.h"

#include "kernels/cuda/check.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kBlocksAtOnce = 4;  // of k64, a warp each: rows are read in pieces of 128 bytes and more
constexpr int kThreads = kBlocksAtOnce * kWarp;

// Where code `i` of a half word goes; layout.h.
__device__ __forceinline__ std::uint32_t place_e2m1(std::uint32_t code, int i) {
  const std::uint32_t sign = code >> 3;
  const std::uint32_t magnitude = code & 7U;
  if (i == 3) return (sign << 14) | ((magnitude & 1U) << 13) | ((magnitude >> 1) << 10);
  return (sign << (15 - 3 * i)) | (magnitude << (6 - 3 * i));
}
__device__ __forceinline__ std::uint32_t place_int4(std::uint32_t code, int i) { return code << (4 * i); }

// A byte's two codes: the even k in the low half of the word.
template <bool kInt4>
__device__ __forceinline__ std::uint32_t place_pair(std::uint32_t byte, int i) {
  const auto place = [i](std::uint32_t code) { return kInt4 ? place_int4(code, i) : place_e2m1(code, i); };
  return place(byte & 15U) | (place(byte >> 4) << 16);
}

// Word `word` of vector `vector` of a lane's share of a block. low, high: its rows lane / 4 and lane / 4 + 8;
// t: lane % 4.
template <int kBits, bool kInt4>
__device__ __forceinline__ std::uint32_t make_word(const std::uint8_t* low, const std::uint8_t* high, int t,
                                                   int vector, int word) {
  if constexpr (kBits == 4) {
    const int at = 8 * word + t;
    return place_pair<kInt4>(low[at], 0) | place_pair<kInt4>(high[at], 1) |
           place_pair<kInt4>(low[at + 4], 2) | place_pair<kInt4>(high[at + 4], 3);
  } else if constexpr (kBits == 8) {
    const int at = 8 * (4 * vector + word) + 2 * t;
    return high[at] | (low[at] << 8) | (high[at + 1] << 16) | (static_cast<std::uint32_t>(low[at + 1]) << 24);
  } else {
    // Pairs of k: a0..a3 of four steps.
    constexpr int kWordsOfPair = kBits / 16;
    const int pair = (4 * vector + word) / kWordsOfPair;
    const auto* row = reinterpret_cast<const std::uint32_t*>(pair % 2 == 0 ? low : high);
    const int at = pair / 4 * 16 + pair / 2 % 2 * 8 + 2 * t;
    return row[at / 2 * kWordsOfPair + word % kWordsOfPair];
  }
}

// The bits of make_word that come from its rows, if they are among those to be written.
template <int kBits, bool kInt4>
__device__ __forceinline__ std::uint32_t mask_word(bool low, bool high, int vector, int word) {
  const std::uint32_t l = low ? 0xFFU : 0U;
  const std::uint32_t h = high ? 0xFFU : 0U;
  if constexpr (kBits == 4) {
    return place_pair<kInt4>(l, 0) | place_pair<kInt4>(h, 1) | place_pair<kInt4>(l, 2) |
           place_pair<kInt4>(h, 3);
  } else if constexpr (kBits == 8) {
    return h | (l << 8) | (h << 16) | (l << 24);
  } else {
    const int pair = (4 * vector + word) / (kBits / 16);
    return (pair % 2 == 0 ? low : high) ? ~0U : 0U;
  }
}

// grid: x = blocks of k64 / kBlocksAtOnce, y = row tiles.
template <int kBits, bool kInt4>
__global__ void __launch_bounds__(kThreads) fragments_kernel(const __grid_constant__ FragmentTiles p) {
  constexpr int kRowBytes = kBlockK * kBits / 8;  // of a block
  constexpr int kVectors = kBits / 4;
  constexpr int kRowVectors = kBlocksAtOnce * kRowBytes / 16;
  constexpr int kStride = kRowVectors + 1;  // rows on different banks
  __shared__ uint4 rows[kTileRows * kStride];
  const std::int64_t first_block = std::int64_t{blockIdx.x} * kBlocksAtOnce;
  const auto num_blocks = static_cast<int>(
      p.num_blocks - first_block < kBlocksAtOnce ? p.num_blocks - first_block : kBlocksAtOnce);
  const std::int64_t tile_bytes = p.num_blocks * block_bytes(p.format);
  for (std::int64_t tile = blockIdx.y; tile < p.num_tiles; tile += gridDim.y) {
    const std::byte* from = p.rows + tile * tile_bytes + first_block * kRowBytes;
    for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kRowVectors; i += kThreads) {
      const int row = i / kRowVectors;
      const int at = i % kRowVectors;
      if (at >= num_blocks * (kRowBytes / 16)) continue;
      rows[row * kStride + at] =
          *reinterpret_cast<const uint4*>(from + row * (p.num_blocks * kRowBytes) + at * 16);
    }
    __syncthreads();
    const int block = static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if (block < num_blocks) {
      const auto* low = reinterpret_cast<const std::uint8_t*>(rows + lane / 4 * kStride) + block * kRowBytes;
      const auto* high = low + 8 * kStride * 16;
      auto* to = reinterpret_cast<uint4*>(p.codes + tile * tile_bytes +
                                          (first_block + block) * block_bytes(p.format)) +
                 lane;
      const bool has_low = (p.row_mask >> (lane / 4) & 1U) != 0;
      const bool has_high = (p.row_mask >> (lane / 4 + 8) & 1U) != 0;
#pragma unroll
      for (int vector = 0; vector < kVectors; ++vector) {
        std::uint32_t words[4];
#pragma unroll
        for (int word = 0; word < 4; ++word) {
          words[word] = make_word<kBits, kInt4>(low, high, lane % 4, vector, word);
        }
        uint4& out = to[vector * kWarp];
        if (p.row_mask != kAllRows) {
          const std::uint32_t present[4] = {out.x, out.y, out.z, out.w};
#pragma unroll
          for (int word = 0; word < 4; ++word) {
            const std::uint32_t mask = mask_word<kBits, kInt4>(has_low, has_high, vector, word);
            words[word] = (present[word] & ~mask) | (words[word] & mask);
          }
        }
        out = {words[0], words[1], words[2], words[3]};
      }
    }
    __syncthreads();
  }
}

template <int kBits, bool kInt4 = false>
void launch(const FragmentTiles& tiles, cudaStream_t stream) {
  constexpr std::int64_t kMaxGridTiles = 65535;
  const auto blocks = static_cast<unsigned>((tiles.num_blocks + kBlocksAtOnce - 1) / kBlocksAtOnce);
  const auto rows = static_cast<unsigned>(tiles.num_tiles < kMaxGridTiles ? tiles.num_tiles : kMaxGridTiles);
  fragments_kernel<kBits, kInt4><<<dim3(blocks, rows), kThreads, 0, stream>>>(tiles);
}

}  // namespace

void launch_make_fragments(const FragmentTiles& tiles, cudaStream_t stream) {
  if (tiles.num_tiles == 0 || tiles.num_blocks == 0) return;
  switch (format_bits(tiles.format)) {
    case 4: tiles.format == Format::int4 ? launch<4, true>(tiles, stream) : launch<4>(tiles, stream); break;
    case 8: launch<8>(tiles, stream); break;
    case 16: launch<16>(tiles, stream); break;
    default: launch<32>(tiles, stream);
  }
  check_launch("make_fragments");
}

}  // namespace nibble::kernels::cuda
