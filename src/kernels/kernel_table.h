// The narrow interface between layers and backends: one row per op, one plain argument struct per
// op. A backend is a Device (allocate and pack weights) and a filled table.
#pragma once

#include "kernels/args/activation.h"
#include "kernels/args/attention.h"
#include "kernels/args/linear.h"
#include "kernels/args/moe.h"
#include "kernels/args/norm.h"
#include "kernels/args/sampling.h"
#include "kernels/exec.h"

namespace nibble::kernels {

struct KernelTable {
  void (*embed)(Exec&, const EmbedArgs&) = nullptr;
  void (*linear)(Exec&, const LinearArgs&) = nullptr;
  void (*linear_pair)(Exec&, const LinearPairArgs&) = nullptr;
  void (*gated_linear)(Exec&, const GatedLinearArgs&) = nullptr;
  void (*head_linear)(Exec&, const HeadLinearArgs&) = nullptr;
  void (*head_linear_transposed)(Exec&, const HeadLinearTransposedArgs&) = nullptr;
  void (*rms_norm)(Exec&, const RmsNormArgs&) = nullptr;
  void (*add)(Exec&, const AddArgs&) = nullptr;
  void (*quantize_activation)(Exec&, const QuantizeActivationArgs&) = nullptr;
  void (*rope)(Exec&, const RopeArgs&) = nullptr;
  void (*cache_write)(Exec&, const CacheWriteArgs&) = nullptr;
  void (*cache_gather)(Exec&, const CacheGatherArgs&) = nullptr;
  void (*mla_absorbed)(Exec&, const MlaAbsorbedArgs&) = nullptr;
  void (*mha)(Exec&, const MhaArgs&) = nullptr;
  void (*topk_gate)(Exec&, const TopkGateArgs&) = nullptr;
  void (*fused_moe)(Exec&, const FusedMoeArgs&) = nullptr;
  void (*sample)(Exec&, const SampleArgs&) = nullptr;

  // What mha likes k_nope and v of such heads in: bf16 (head_linear writes it, too), or f32, which it always
  // takes.
  DType (*rebuilt)(std::int64_t d_nope, std::int64_t d_rope,
                   std::int64_t d_v) = [](std::int64_t, std::int64_t, std::int64_t) { return DType::f32; };
  // Whether linear, linear_pair and gated_linear quantise their inputs to this format themselves (fast
  // products with weights whose shape names it), which saves a pass over them.
  bool (*quantizes_inputs)(quant::ActivationFormat) = [](quant::ActivationFormat) { return false; };
  // Whether fused_moe takes args.shared along, which is then faster than gated_linear and linear beside it.
  bool (*takes_shared_experts)(const FusedMoeArgs&) = [](const FusedMoeArgs&) { return false; };
};

// Rows that do nothing: runs a model's forward in counting mode, to size its arena.
KernelTable counting_kernels();

}  // namespace nibble::kernels
