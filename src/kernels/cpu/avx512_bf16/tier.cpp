#include "kernels/cpu/avx512_bf16/tier.h"

#include "kernels/cpu/avx512/tier.h"
#include "kernels/cpu/avx512_bf16/instances.h"

namespace nibble::kernels::cpu::avx512_bf16 {
namespace {

template <class D>
void use_pairs(Tier& tier, Decoder decoder, bool fused) {
  tier.fast[static_cast<std::size_t>(decoder)] = {
      .bf16_fused = fused, .bf16_tiled = true, .matmul = matmul<D>};
}

Tier make_tier() {
  Tier tier = avx512::tier();
  tier.name = "avx512_bf16";
  use_pairs<PairsBf16>(tier, Decoder::bf16, true);
  use_pairs<PairsMxfp4>(tier, Decoder::mxfp4, true);
  use_pairs<PairsNvfp4>(tier, Decoder::nvfp4, true);
  // FP8 decodes by way of float32: for few tokens a conversion to bf16 costs more than it saves.
  use_pairs<avx512::DecodeFp8>(tier, Decoder::fp8, false);
  return tier;
}

}  // namespace

const Tier& tier() {
  static const Tier instance = make_tier();
  return instance;
}

}  // namespace nibble::kernels::cpu::avx512_bf16
