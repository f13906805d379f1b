// Packed codes (layout.h) to the E4M3 A fragments of m16n8k32 and wgmma: a register holds four codes of one
// row from one k16 step, in the ByteOrder (inputs.h) of the format.
#pragma once

#include "kernels/cuda/fragment.cuh"

namespace nibble::kernels::cuda {

// FP8: the codes of row g (upper = false) or g + 8 of the lane's two words of a step.
__device__ __forceinline__ std::uint32_t gather_e4m3(std::uint32_t even, std::uint32_t odd, bool upper) {
  return __byte_perm(even, odd, upper ? 0x6420U : 0x7531U);
}

// E4M3 of the eight magnitudes of e2m1 times 2^(6 - down). Up to down = 11 all are normal numbers; from 15 on
// they are below half of the smallest E4M3 number bit by bit.
struct MagnitudeTable {
  std::uint32_t low;
  std::uint32_t high;
};
__device__ __forceinline__ MagnitudeTable magnitude_table(std::uint32_t down) {
  if (down <= 11U) return {.low = 0x6C686000U - down * 0x08080800U, .high = 0x7C787470U - down * 0x08080808U};
  switch (down) {
    case 12U: return {.low = 0x0C080400U, .high = 0x1C181410U};
    case 13U: return {.low = 0x06040200U, .high = 0x14100C08U};
    case 14U: return {.low = 0x03020100U, .high = 0x0C080604U};
    case 15U: return {.low = 0x02010000U, .high = 0x06040302U};
    case 16U: return {.low = 0x01000000U, .high = 0x03020201U};
    case 17U: return {.low = 0x00000000U, .high = 0x02010100U};
    default: return {.low = 0U, .high = 0U};
  }
}

// MXFP4: the four codes of row g or g + 8 in a step's word; byte order a2 or a3 low, a0 or a1 low, then high.
__device__ __forceinline__ std::uint32_t expand_e2m1(std::uint32_t word, bool upper,
                                                     const MagnitudeTable& table) {
  std::uint32_t index;
  std::uint32_t signs;
  if (upper) {
    index = ((word >> 9) & 0x00060006U) | ((word >> 13) & 0x00010001U) | ((word << 1) & 0x00700070U);
    signs = ((word << 3) & 0x80008000U) | ((word >> 7) & 0x00800080U);
  } else {
    index = (word & 0x00070007U) | ((word >> 2) & 0x00700070U);
    signs = (word & 0x80008000U) | ((word >> 2) & 0x00800080U);
  }
  index |= index >> 8;  // the high half's two after the low half's
  return __byte_perm(table.low, table.high, index) | signs;
}

}  // namespace nibble::kernels::cuda
