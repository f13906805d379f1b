// How the attention kernels keep matrices in shared memory: panels of 64 columns with the 128-byte swizzle of
// hopper/wgmma.cuh. A tile's panel has 64 rows, 8 KiB; a matrix of more columns is panels one after another.
#pragma once

#include <cstdint>

#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/hopper/copy.cuh"
#include "kernels/cuda/hopper/mma.cuh"
#include "kernels/cuda/hopper/wgmma.cuh"

namespace nibble::kernels::cuda {

constexpr int kPanelColumns = 64;
constexpr int kPanelBytes = 64 * 128;

// Added to a descriptor (addresses / 16): 16 columns of a k-major panel, 16 rows of an mn-major one.
constexpr int kStepColumns = 32 / 16;
constexpr int kStepRows = 16 * 128 / 16;

// Byte offset of 16-byte chunk `chunk` of row `row` in a panel.
__device__ __forceinline__ int panel_offset(int row, int chunk) {
  return row * 128 + ((chunk ^ (row % 8)) * 16);
}

__device__ __forceinline__ void store_shared(std::uint32_t address, std::uint32_t x) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}
__device__ __forceinline__ void store_shared(std::uint32_t address, std::uint32_t x, std::uint32_t y) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(x), "r"(y) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements, whose rows of 16 bytes lie where lanes 8i to 8i + 7 say; a lane
// gets two neighbours of row lane / 4 of each (transposed: of column lane / 4).
__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

// The reverse of load_matrices.
__device__ __forceinline__ void store_matrices(std::uint32_t row, const std::uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// 2^x within 2 ulp; results below the normal range are zero.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace nibble::kernels::cuda
