#include "kernels/cuda/table.h"

#include "kernels/cuda/ops.h"

namespace nibble::kernels::cuda {

KernelTable table() {
  return {
      .embed = embed,
      .linear = linear,
      .linear_pair = linear_pair,
      .gated_linear = gated_linear,
      .head_linear = head_linear,
      .head_linear_transposed = head_linear_transposed,
      .rms_norm = rms_norm,
      .add = add,
      .quantize_activation = quantize_activation,
      .rope = rope,
      .cache_write = cache_write,
      .cache_gather = cache_gather,
      .mla_absorbed = mla_absorbed,
      .mha = mha,
      .topk_gate = topk_gate,
      .fused_moe = fused_moe,
      .sample = sample,
      .rebuilt = rebuilt,
      .quantizes_inputs = quantizes_inputs,
      .takes_shared_experts = takes_shared_experts,
  };
}

}  // namespace nibble::kernels::cuda
