// The rows of the CUDA table, one function each. Tensors and arrays are device memory; nothing waits for
// the GPU, and nothing allocates but CudaExec::scratch.
#pragma once

#include "kernels/kernel_table.h"

namespace nibble::kernels::cuda {

// linear/
void embed(Exec& exec, const EmbedArgs& args);
void linear(Exec& exec, const LinearArgs& args);
void linear_pair(Exec& exec, const LinearPairArgs& args);
void gated_linear(Exec& exec, const GatedLinearArgs& args);
bool quantizes_inputs(quant::ActivationFormat format);
void head_linear(Exec& exec, const HeadLinearArgs& args);
void head_linear_transposed(Exec& exec, const HeadLinearTransposedArgs& args);

// elementwise/
void rms_norm(Exec& exec, const RmsNormArgs& args);
void add(Exec& exec, const AddArgs& args);
void quantize_activation(Exec& exec, const QuantizeActivationArgs& args);
void rope(Exec& exec, const RopeArgs& args);
void cache_write(Exec& exec, const CacheWriteArgs& args);
void cache_gather(Exec& exec, const CacheGatherArgs& args);

// attention/
void mla_absorbed(Exec& exec, const MlaAbsorbedArgs& args);
void mha(Exec& exec, const MhaArgs& args);
DType rebuilt(std::int64_t d_nope, std::int64_t d_rope, std::int64_t d_v);
bool takes_shared_experts(const FusedMoeArgs& args);

// moe/
void topk_gate(Exec& exec, const TopkGateArgs& args);
void fused_moe(Exec& exec, const FusedMoeArgs& args);
// The same one value after another, in float32.
void fused_moe_reference(Exec& exec, const FusedMoeArgs& args);

// sampling/
void sample(Exec& exec, const SampleArgs& args);

}  // namespace nibble::kernels::cuda
