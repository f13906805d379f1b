// What this processor can do, and which kernel tier follows from it.
#pragma once

#include <string>
#include <string_view>

#include "nibble/result.h"

namespace nibble {

enum class CpuIsa : std::uint8_t {
  scalar,       // any machine
  avx2,         // AVX2 + FMA + F16C
  avx512,       // AVX-512 F, BW, DQ, VL
  avx512_bf16,  // + AVX512_BF16: products of bf16 pairs (activations rounded to bf16)
};

struct CpuInfo {
  std::string model_name;
  bool amd = false;
  bool avx2 = false;    // with FMA and F16C
  bool avx512 = false;  // F, BW, DQ, VL
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
};

const CpuInfo& cpu_info();

std::string_view isa_name(CpuIsa isa) noexcept;

// The tier to use: the best for this processor, or what `forced` names (the value of NIBBLE_ISA, may be
// empty): scalar, avx2, avx512 (the best AVX-512 tier), avx512_f32 or avx512_bf16. A tier the processor
// lacks, or an unknown name, is an error.
//
// Best is not always most: on AMD processors vdpbf16ps doubles the rate of float32 multiply-adds, on an
// Intel Xeon of model 207 (Emerald Rapids) the same tile product ran at half of it, 73 against 142
// GFLOP/s a thread (measured 2026-11-21). So bf16 products are chosen on AMD only.
Result<CpuIsa> choose_isa(std::string_view forced);

}  // namespace nibble
