#include "kernels/cpu/avx2/tier.h"

#include "kernels/cpu/avx2/instances.h"
#include "kernels/cpu/avx2/pack.h"
#include "kernels/cpu/generic/attention.h"
#include "kernels/cpu/generic/elementwise.h"

namespace nibble::kernels::cpu::avx2 {
namespace {

template <class D>
void add_format(Tier& tier, Decoder decoder) {
  const auto i = static_cast<std::size_t>(decoder);
  tier.exact[i] = tier.fast[i] = {.matmul = generic::matmul<Simd, D>};
  tier.transposed[i] = generic::transposed<Simd, D>;
}

Tier make_tier() {
  Tier tier{.name = "avx2", .micro_m = Simd::kMicroM};
  add_format<DecodeF32>(tier, Decoder::f32);
  add_format<DecodeF16>(tier, Decoder::f16);
  add_format<DecodeBf16>(tier, Decoder::bf16);
  add_format<DecodeFp8>(tier, Decoder::fp8);
  add_format<DecodeMxfp4>(tier, Decoder::mxfp4);
  add_format<DecodeNvfp4>(tier, Decoder::nvfp4);
  add_format<DecodeInt8>(tier, Decoder::int8);
  add_format<DecodeInt8Zeros>(tier, Decoder::int8_zeros);
  add_format<DecodeInt8ActOrder>(tier, Decoder::int8_act_order);
  add_format<DecodeInt4>(tier, Decoder::int4);
  add_format<DecodeInt4Zeros>(tier, Decoder::int4_zeros);
  add_format<DecodeInt4ActOrder>(tier, Decoder::int4_act_order);
  tier.dot_block = generic::dot_block<Simd>;
  tier.weighted_sum = generic::weighted_sum<Simd>;
  tier.decode_fp8 = generic::decode_fp8<Simd>;
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

}  // namespace nibble::kernels::cpu::avx2
