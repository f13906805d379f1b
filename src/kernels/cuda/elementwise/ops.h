// Rows of the CUDA table: element-wise ops.
#pragma once

#include "kernels/kernel_table.h"

namespace nibble::kernels::cuda {

void rms_norm(Exec& exec, const RmsNormArgs& args);
void add(Exec& exec, const AddArgs& args);
void quantize_activation(Exec& exec, const QuantizeActivationArgs& args);
void rope(Exec& exec, const RopeArgs& args);
void cache_write(Exec& exec, const CacheWriteArgs& args);
void cache_gather(Exec& exec, const CacheGatherArgs& args);

}  // namespace nibble::kernels::cuda
