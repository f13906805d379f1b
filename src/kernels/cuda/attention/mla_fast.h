// The tensor-core kernel for absorbed attention of 512 + 64 values.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention/attention.h"

namespace nibble::kernels::cuda {

constexpr int kMlaLatent = 512;
constexpr int kMlaRope = 64;
constexpr int kMlaWidth = kMlaLatent + kMlaRope;
constexpr int kMlaRows = 64;  // query rows (tokens x heads) of a block
constexpr int kMlaTile = 64;  // cache entries worked on at a time
constexpr int kMlaMaxSeqs = 512;

// How the rows of one query token were split: merged by the combine kernel.
struct MlaSplits {
  std::int32_t first_part;
  std::int16_t num_parts;  // 0: sees nothing; 1: the result is already in place
  std::int16_t token;      // within its unit
};

// A launch and where its partial results go. A part leaves at most two of them: slot 2p of the unit begun
// before it, slot 2p + 1 of the unit it begins.
struct MlaFast {
  MlaLaunch base;
  std::int32_t tokens_per_unit;
  std::int32_t num_groups;  // of up to 64 heads
  std::int32_t box_rows;    // entries one copy brings: they lie in one page
  float* partial_o;         // [slots, groups, 64, 512], not yet divided by the sum
  float2* partial_ml;       // [slots, groups, 64]: maximum (scaled, base 2) and sum
  MlaSplits* splits;        // [rows]
};

// Whether the fast kernel does this launch: shape, type, alignment.
bool mla_fast_supports(const MlaLaunch& launch);

// Bytes of scratch that launch_mla_fast needs.
std::size_t mla_fast_scratch(const MlaLaunch& launch, int num_sms);

void launch_mla_fast(cudaStream_t stream, const MlaLaunch& launch, int num_sms, std::byte* scratch);

// mla_combine.cu
void launch_mla_combine(cudaStream_t stream, const MlaFast& launch);

// tensor_map.cpp: the bf16 matrix [num_rows, num_columns] cut into boxes of 64 columns.
CUtensorMap bf16_boxes(const void* data, std::int64_t num_rows, std::int64_t num_columns,
                       std::int64_t row_stride, int box_rows);

}  // namespace nibble::kernels::cuda
