// The shapes every matrix-product test and benchmark goes through.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "quant/quant_format.h"

namespace nibble::kernels::testing {

struct MatrixCase {
  quant::WeightFormat format;
  std::int64_t n;
  std::int64_t k;
  quant::Grouping grouping = {};
};

// Odd n, n no multiple of a panel, k no multiple of a step or of a scale block where the format
// allows it, and one shape of ordinary size per format.
inline constexpr std::array kMatrixCases = {
    MatrixCase{quant::WeightFormat::f32, 1, 1},
    MatrixCase{quant::WeightFormat::f32, 7, 3},
    MatrixCase{quant::WeightFormat::f32, 33, 129},
    MatrixCase{quant::WeightFormat::f32, 130, 300},
    MatrixCase{quant::WeightFormat::f16, 1, 1},
    MatrixCase{quant::WeightFormat::f16, 24, 31},
    MatrixCase{quant::WeightFormat::f16, 130, 257},
    MatrixCase{quant::WeightFormat::bf16, 1, 1},
    MatrixCase{quant::WeightFormat::bf16, 7, 5},
    MatrixCase{quant::WeightFormat::bf16, 24, 64},
    MatrixCase{quant::WeightFormat::bf16, 33, 127},
    MatrixCase{quant::WeightFormat::bf16, 130, 192},
    MatrixCase{quant::WeightFormat::bf16, 272, 1100},
    MatrixCase{quant::WeightFormat::fp8, 1, 1},
    MatrixCase{quant::WeightFormat::fp8, 17, 72},
    MatrixCase{quant::WeightFormat::fp8, 130, 200},
    MatrixCase{quant::WeightFormat::fp8, 128, 256},
    MatrixCase{quant::WeightFormat::fp8, 272, 1100},
    MatrixCase{quant::WeightFormat::mxfp4, 1, 32},
    MatrixCase{quant::WeightFormat::mxfp4, 24, 96},
    MatrixCase{quant::WeightFormat::mxfp4, 33, 160},
    MatrixCase{quant::WeightFormat::mxfp4, 128, 192},
    MatrixCase{quant::WeightFormat::mxfp4, 272, 1120},
    MatrixCase{quant::WeightFormat::nvfp4, 1, 16},
    MatrixCase{quant::WeightFormat::nvfp4, 24, 48},
    MatrixCase{quant::WeightFormat::nvfp4, 33, 208},
    MatrixCase{quant::WeightFormat::nvfp4, 272, 1104},
    MatrixCase{quant::WeightFormat::fp8, 33, 200, {.group_k = 200}},
    MatrixCase{quant::WeightFormat::fp8, 24, 640, {.group_k = 256}},
    MatrixCase{quant::WeightFormat::int8, 1, 1},
    MatrixCase{quant::WeightFormat::int8, 33, 131, {.group_k = 131}},
    MatrixCase{quant::WeightFormat::int8, 24, 300},
    MatrixCase{quant::WeightFormat::int8, 130, 200, {.group_k = 64, .zero_points = true}},
    MatrixCase{quant::WeightFormat::int8, 17, 160, {.group_k = 32, .zero_points = true, .act_order = true}},
    MatrixCase{quant::WeightFormat::int8, 272, 1100, {.group_k = 1100}},
    MatrixCase{quant::WeightFormat::int4, 1, 2},
    MatrixCase{quant::WeightFormat::int4, 33, 200, {.group_k = 32}},
    MatrixCase{quant::WeightFormat::int4, 24, 320, {.group_k = 96}},
    MatrixCase{quant::WeightFormat::int4, 17, 250, {.group_k = 250}},
    MatrixCase{quant::WeightFormat::int4, 130, 400, {.group_k = 64, .zero_points = true}},
    MatrixCase{quant::WeightFormat::int4, 40, 392, {.zero_points = true}},
    MatrixCase{quant::WeightFormat::int4, 33, 130, {.group_k = 32, .act_order = true}},
    MatrixCase{quant::WeightFormat::int4, 24, 256, {.group_k = 64, .zero_points = true, .act_order = true}},
    MatrixCase{quant::WeightFormat::int4, 272, 1120},
};

// Batch sizes around every tile border.
inline constexpr std::array<std::int64_t, 13> kTokenCounts = {0, 1, 2, 3, 5, 8, 12, 13, 17, 31, 64, 65, 130};

// Batch sizes worth the oracle's time: shapes of ordinary size get a few of them.
inline bool is_worth_testing(const MatrixCase& c, std::int64_t m) {
  return c.n * c.k < 100'000 || m == 1 || m == 5 || m == 13 || m == 65;
}

inline std::string case_name(const MatrixCase& c) {
  return std::string(quant::format_name(c.format)) + " n=" + std::to_string(c.n) +
         " k=" + std::to_string(c.k) + " groups of " + std::to_string(c.grouping.group_k) +
         (c.grouping.zero_points ? ", zeros" : "") + (c.grouping.act_order ? ", act-order" : "");
}

}  // namespace nibble::kernels::testing
