#include "kernels/cpu/avx512/tier.h"

#include "kernels/cpu/avx512/instances.h"
#include "kernels/cpu/avx512/pack.h"
#include "kernels/cpu/generic/attention.h"
#include "kernels/cpu/generic/elementwise.h"

namespace nibble::kernels::cpu::avx512 {
namespace {

template <class D>
void add_format(Tier& tier, quant::WeightFormat format) {
  const auto i = static_cast<std::size_t>(format);
  tier.exact[i] = tier.fast[i] = {.matmul = generic::matmul<Simd, D>};
  tier.transposed[i] = generic::transposed<Simd, D>;
}

Tier make_tier() {
  using quant::WeightFormat;
  Tier tier{.name = "avx512", .micro_m = Simd::kMicroM};
  add_format<DecodeF32>(tier, WeightFormat::f32);
  add_format<DecodeF16>(tier, WeightFormat::f16);
  add_format<DecodeBf16>(tier, WeightFormat::bf16);
  add_format<DecodeFp8>(tier, WeightFormat::fp8_block);
  add_format<DecodeMxfp4>(tier, WeightFormat::mxfp4);
  add_format<DecodeNvfp4>(tier, WeightFormat::nvfp4);
  tier.dot_block = generic::dot_block<Simd>;
  tier.weighted_sum = generic::weighted_sum<Simd>;
  tier.exp_sum = generic::exp_sum<Simd>;
  tier.silu_mul = generic::silu_mul<Simd>;
  tier.pack_panel = pack_panel;
  tier.rms_norm = generic::rms_norm<Simd>;
  return tier;
}

}  // namespace

const Tier& tier() {
  static const Tier instance = make_tier();
  return instance;
}

}  // namespace nibble::kernels::cpu::avx512
