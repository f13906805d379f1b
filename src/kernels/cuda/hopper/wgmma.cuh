// wgmma: a warpgroup's products of 64 rows with operands from shared memory (B always, A or registers).
//
// Operands in shared memory are panels of 128 bytes a row (64 bf16 or 128 E4M3) whose 16-byte chunks are
// permuted by the 128-byte swizzle: chunk c of row r lies at c ^ (r % 8). Eight rows are one kilobyte, to
// which panels are aligned. 32 bytes further along k add 2 to a k-major descriptor.
//
// A warpgroup's accumulator d of 64 x n: lane l of warp w holds, with g = l / 4 and t = l % 4, in d[4j],
// d[4j + 1] the columns 8j + 2t and + 1 of row 16w + g, in d[4j + 2], d[4j + 3] the same of row 16w + g + 8.
// The A operand in registers is per warp the mma.m16n8 A fragment of its 16 rows.
#pragma once

#include <cstdint>

namespace nibble::kernels::cuda {

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ std::uint64_t swizzled_descriptor(std::uint32_t address,
                                                             std::uint64_t leading_bytes,
                                                             std::uint64_t stride_bytes) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  return kSwizzle128 | (stride_bytes / 16) << 32 | (leading_bytes / 16) << 16 | ((address & 0x3FFFFU) >> 4);
}
// Rows of the panel are M or N, columns are K.
__device__ __forceinline__ std::uint64_t k_major(std::uint32_t address) {
  return swizzled_descriptor(address, 16, 1024);
}
// Rows of the panels are K, columns (over several panels, panel_bytes apart) are N.
__device__ __forceinline__ std::uint64_t mn_major(std::uint32_t address, std::uint64_t panel_bytes) {
  return swizzled_descriptor(address, panel_bytes, 1024);
}

// Lists of n accumulators, as operands and in the instruction's text.
#define NIBBLE_D8(i)                                                                                      \
  "+f"(d[(i)]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3]), "+f"(d[(i) + 4]), "+f"(d[(i) + 5]), \
      "+f"(d[(i) + 6]), "+f"(d[(i) + 7])
#define NIBBLE_D16(i) NIBBLE_D8(i), NIBBLE_D8((i) + 8)
#define NIBBLE_D24(i) NIBBLE_D16(i), NIBBLE_D8((i) + 16)
#define NIBBLE_D32(i) NIBBLE_D16(i), NIBBLE_D16((i) + 16)
#define NIBBLE_D40(i) NIBBLE_D32(i), NIBBLE_D8((i) + 32)
#define NIBBLE_D48(i) NIBBLE_D32(i), NIBBLE_D16((i) + 32)
#define NIBBLE_D56(i) NIBBLE_D48(i), NIBBLE_D8((i) + 48)
#define NIBBLE_D64(i) NIBBLE_D32(i), NIBBLE_D32((i) + 32)
#define NIBBLE_D128(i) NIBBLE_D64(i), NIBBLE_D64((i) + 64)
#define NIBBLE_T8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define NIBBLE_T16 NIBBLE_T8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define NIBBLE_T24 NIBBLE_T16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define NIBBLE_T32 NIBBLE_T24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define NIBBLE_T40 NIBBLE_T32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define NIBBLE_T48 NIBBLE_T40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define NIBBLE_T56 NIBBLE_T48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define NIBBLE_T64 NIBBLE_T56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define NIBBLE_T128                                                                                      \
  NIBBLE_T64                                                                                             \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, "    \
  "%83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"                                      \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, " \
  "%113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// d (+)= a b for one count of accumulators: n = 2 * count columns, `add` = 0 overwrites d.
//   wgmma_bf16: 16 of k, A in registers or k-major in shared memory, B k-major.
//   wgmma_bf16_mn: the same with B mn-major.
//   wgmma_e4m3: 32 of k; wgmma_e5m2_e4m3: the same with A in E5M2.
// a0 to a3, b and p are the operands' numbers after the accumulators.
#define NIBBLE_WGMMA(count, n, a0, a1, a2, a3, b, p)                                                  \
  NIBBLE_WGMMA_A(wgmma_bf16, "k16.f32.bf16.bf16", ", 0", ", 0, 0", count, n, a0, a1, a2, a3, b, p)    \
  NIBBLE_WGMMA_A(wgmma_bf16_mn, "k16.f32.bf16.bf16", ", 1", ", 0, 1", count, n, a0, a1, a2, a3, b, p) \
  NIBBLE_WGMMA_A(wgmma_e4m3, "k32.f32.e4m3.e4m3", "", "", count, n, a0, a1, a2, a3, b, p)             \
  NIBBLE_WGMMA_A(wgmma_e5m2_e4m3, "k32.f32.e5m2.e4m3", "", "", count, n, a0, a1, a2, a3, b, p)
#define NIBBLE_WGMMA_A(name, types, order_b, order_ab, count, n, a0, a1, a2, a3, b, p)                       \
  __device__ __forceinline__ void name(float(&d)[count], const std::uint32_t(&a)[4], std::uint64_t rows,     \
                                       int add = 1) {                                                        \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #p                                                 \
                 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n types " {" NIBBLE_T##count                     \
                 "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b ", add, 1, 1" order_b ";\n}"            \
                 : NIBBLE_D##count(0)                                                                        \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows), "r"(add));                         \
  }                                                                                                          \
  __device__ __forceinline__ void name(float(&d)[count], std::uint64_t a, std::uint64_t rows, int add = 1) { \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #a2                                                \
                 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n types " {" NIBBLE_T##count                     \
                 "}, %" #a0 ", %" #a1 ", add, 1, 1" order_ab ";\n}"                                          \
                 : NIBBLE_D##count(0)                                                                        \
                 : "l"(a), "l"(rows), "r"(add));                                                             \
  }
NIBBLE_WGMMA(8, 16, 8, 9, 10, 11, 12, 13)
NIBBLE_WGMMA(16, 32, 16, 17, 18, 19, 20, 21)
NIBBLE_WGMMA(24, 48, 24, 25, 26, 27, 28, 29)
NIBBLE_WGMMA(32, 64, 32, 33, 34, 35, 36, 37)
NIBBLE_WGMMA(40, 80, 40, 41, 42, 43, 44, 45)
NIBBLE_WGMMA(48, 96, 48, 49, 50, 51, 52, 53)
NIBBLE_WGMMA(56, 112, 56, 57, 58, 59, 60, 61)
NIBBLE_WGMMA(64, 128, 64, 65, 66, 67, 68, 69)
NIBBLE_WGMMA(128, 256, 128, 129, 130, 131, 132, 133)
#undef NIBBLE_WGMMA_A
#undef NIBBLE_WGMMA
#undef NIBBLE_T128
#undef NIBBLE_T64
#undef NIBBLE_T56
#undef NIBBLE_T48
#undef NIBBLE_T40
#undef NIBBLE_T32
#undef NIBBLE_T24
#undef NIBBLE_T16
#undef NIBBLE_T8
#undef NIBBLE_D128
#undef NIBBLE_D64
#undef NIBBLE_D56
#undef NIBBLE_D48
#undef NIBBLE_D40
#undef NIBBLE_D32
#undef NIBBLE_D24
#undef NIBBLE_D16
#undef NIBBLE_D8

}  // namespace nibble::kernels::cuda
