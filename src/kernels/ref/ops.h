// The rows of the reference table, one function each.
#pragma once

#include "kernels/kernel_table.h"

namespace nibble::kernels::ref {

// linear.cpp
void embed(Exec& exec, const EmbedArgs& args);
void linear(Exec& exec, const LinearArgs& args);
void linear_pair(Exec& exec, const LinearPairArgs& args);
void gated_linear(Exec& exec, const GatedLinearArgs& args);
void head_linear(Exec& exec, const HeadLinearArgs& args);
void head_linear_transposed(Exec& exec, const HeadLinearTransposedArgs& args);

// norm.cpp
void rms_norm(Exec& exec, const RmsNormArgs& args);
void add(Exec& exec, const AddArgs& args);

// quantize_activation.cpp
void quantize_activation(Exec& exec, const QuantizeActivationArgs& args);

// rope.cpp
void rope(Exec& exec, const RopeArgs& args);

// cache.cpp
void cache_write(Exec& exec, const CacheWriteArgs& args);
void cache_gather(Exec& exec, const CacheGatherArgs& args);

// attention.cpp
void mla_absorbed(Exec& exec, const MlaAbsorbedArgs& args);
void mha(Exec& exec, const MhaArgs& args);

// topk_gate.cpp
void topk_gate(Exec& exec, const TopkGateArgs& args);

// fused_moe.cpp
void fused_moe(Exec& exec, const FusedMoeArgs& args);

// sampling.cpp
void sample(Exec& exec, const SampleArgs& args);

}  // namespace nibble::kernels::ref
