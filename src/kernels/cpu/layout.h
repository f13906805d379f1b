// Packed weight layout of the CPU backend: one layout per format, shared by all tiers.
//
// Rows are cut into panels of 16 (the lanes of one 512-bit vector), zero-padded. A panel is one
// contiguous stream of 64-byte steps in ascending k, so that a step yields whole vectors of 16 rows:
//   f32    1 k a step: 16 floats.
//   f16    2 k: words 0..15 hold k0 of rows 0..15, words 16..31 hold k1.
//   bf16   2 k: dword r holds row r's pair (k0 low, k1 high), the operand order of vdpbf16ps.
//   fp8    4 k: word r holds row r's k0 (low byte) and k1 (high byte), word 16 + r its k2 and k3.
//   int8   4 k: dword r holds row r's four codes, the operand order of vpdpbusd.
//   fp4, int4
//          8 k: dword r holds row r's 8 codes; nibble i of its low word is k = 2i, of its high word
//          k = 2i + 1, so one shift by 4i leaves a bf16 pair's two codes in the low nibbles of the two words.
// k is padded to a multiple of kPadK with codes that decode to zero.
//
// Scales lie apart, in the same panel order (g counts the groups of a row):
//   fp8         f32 [panel][g][16], times kFp8ScaleFactor
//   mxfp4       e8m0 bytes [panel][k / 32][16]
//   nvfp4       e4m3 bytes [panel][k / 16][16], then f32 [panel][16] global scales
//   int8, int4  [panel][g]{f32 [16] scales, with zero points or act-order also i8 [16] zeros};
//               with act-order then i32 [k_pad], the group of each k
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/weight.h"

namespace nibble::kernels::cpu {

inline constexpr std::int64_t kPanelRows = 16;
inline constexpr std::int64_t kStepBytes = 64;
// One k block: what the GEMM decodes at a time, and the scale block of FP8 checkpoints.
inline constexpr std::int64_t kBlockK = 128;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// k per 64-byte step of a format.
constexpr std::int64_t step_k(quant::WeightFormat format) {
  using quant::WeightFormat;
  switch (format) {
    case WeightFormat::f32: return 1;
    case WeightFormat::f16:
    case WeightFormat::bf16: return 2;
    case WeightFormat::fp8:
    case WeightFormat::int8: return 4;
    case WeightFormat::mxfp4:
    case WeightFormat::nvfp4:
    case WeightFormat::int4: return 8;
  }
  return 0;
}

// FP8 codes are decoded by way of half precision, whose exponent bias is 8 larger: they come out as
// 2^-8 of their value, and packed scales carry the factor that makes up for it.
inline constexpr float kFp8ScaleFactor = 256.0F;

// Which decoder reads a weight: its format, and for integers how zeros and groups are found.
enum class Decoder : std::uint8_t {
  f32,
  f16,
  bf16,
  fp8,
  mxfp4,
  nvfp4,
  int8,
  int8_zeros,
  int8_act_order,
  int4,
  int4_zeros,
  int4_act_order,
};
inline constexpr std::size_t kNumDecoders = 12;

Decoder decoder_of(const WeightShape& shape);

// k covered by one packed scale vector; 0 = unscaled. At least k for one scale per row.
std::int64_t scale_k(const WeightShape& shape);

// Bytes of one packed scale vector (16 rows).
std::int64_t scale_vector_bytes(const WeightShape& shape);

// Everything needed to address a packed weight.
struct PanelLayout {
  std::int64_t num_panels;
  std::int64_t k_pad;              // multiple of 32
  std::int64_t panel_bytes;        // codes of one panel
  std::int64_t scale_panel_bytes;  // scales of one panel, without nvfp4's globals
  std::int64_t scale_k;            // k of one scale vector; 0 = unscaled
  std::int64_t scale_bytes;        // of one scale vector
  std::int64_t globals_offset;     // nvfp4: where the globals start in a group's scales; else 0
  std::int64_t g_idx_offset;       // act-order: where g_idx starts in a group's scales; else 0
  std::int64_t group_code_bytes;
  std::int64_t group_scale_bytes;
};

PanelLayout panel_layout(const WeightShape& shape);

// Row `row` of group `group` as float32, exactly: out[k].
void decode_row(const Weight& weight, std::int64_t group, std::int64_t row, float* out);

}  // namespace nibble::kernels::cpu
