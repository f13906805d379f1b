#include "kernels/cuda/ops.h"

#include "core/check.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/elementwise/views.h"
#include "kernels/cuda/exec.h"

namespace nibble::kernels::cuda {

void rms_norm(Exec& exec, const RmsNormArgs& args) {
  const Rows add = args.add.rank == 0 ? Rows{.data = nullptr, .stride = 0} : rows_of(args.add);
  launch_rms_norm(cuda_exec(exec).stream(), rows_of(args.x), add, args.weight, args.eps, rows_of(args.y),
                  args.x.dim(0), args.x.dim(1));
}

void add(Exec& exec, const AddArgs& args) {
  launch_add(cuda_exec(exec).stream(), rows_of(args.x), rows_of(args.y), args.x.dim(0), args.x.dim(1));
}

void quantize_activation(Exec& exec, const QuantizeActivationArgs& args) {
  NIB_CHECK(args.x.dim(0) == args.y.dim(0) && args.x.dim(1) == args.y.dim(1),
            "activations [{}, {}] into [{}, {}]", args.x.dim(0), args.x.dim(1), args.y.dim(0), args.y.dim(1));
  auto codes = ActivationCodes::none;
  if (args.format == quant::ActivationFormat::fp8) codes = ActivationCodes::fp8;
  if (args.format == quant::ActivationFormat::int8) codes = ActivationCodes::int8;
  launch_quantize_activation(cuda_exec(exec).stream(), codes, rows_of(args.x), rows_of(args.y), args.x.dim(0),
                             args.x.dim(1));
}

void rope(Exec& exec, const RopeArgs& args) {
  const std::int64_t num_pairs = args.cos.dim(1);
  const bool many_heads = args.x.rank == 3;
  NIB_CHECK(args.x.dim(args.x.rank - 1) == 2 * num_pairs, "rope of {} values with {} angles",
            args.x.dim(args.x.rank - 1), num_pairs);
  launch_rope(cuda_exec(exec).stream(), {.x = args.x.f32(),
                                         .row_stride = args.x.stride[0],
                                         .head_stride = many_heads ? args.x.stride[1] : 0,
                                         .m = args.x.dim(0),
                                         .heads = many_heads ? args.x.dim(1) : 1,
                                         .num_pairs = num_pairs,
                                         .positions = args.positions,
                                         .cos = args.cos.f32(),
                                         .cos_stride = args.cos.stride[0],
                                         .sin = args.sin.f32(),
                                         .sin_stride = args.sin.stride[0],
                                         .max_positions = args.cos.dim(0)});
}

void cache_write(Exec& exec, const CacheWriteArgs& args) {
  const std::int64_t d_latent = args.latent.dim(1);
  const std::int64_t d_rope = args.k_pe.dim(1);
  CacheWriteLaunch launch{.latent = rows_of(args.latent),
                          .k_pe = rows_of(args.k_pe),
                          .slot_mapping = args.slot_mapping,
                          .cache = entries_of(args.cache, d_latent, d_rope),
                          .prologue = {},
                          .m = args.latent.dim(0),
                          .d_latent = static_cast<std::int32_t>(d_latent),
                          .d_rope = static_cast<std::int32_t>(d_rope)};
  if (args.prologue != nullptr) {
    const CacheEntryPrologue& p = *args.prologue;
    NIB_CHECK(d_rope == 2 * p.cos.dim(1), "rope of {} values with {} angles", d_rope, p.cos.dim(1));
    launch.prologue = {.norm_weight = p.norm_weight,
                       .norm_eps = p.norm_eps,
                       .positions = p.positions,
                       .cos = p.cos.f32(),
                       .cos_stride = p.cos.stride[0],
                       .sin = p.sin.f32(),
                       .sin_stride = p.sin.stride[0],
                       .max_positions = p.cos.dim(0)};
  }
  launch_cache_write(cuda_exec(exec).stream(), launch);
}

void cache_gather(Exec& exec, const CacheGatherArgs& args) {
  const std::int64_t d_latent = args.latent.dim(1);
  const std::int64_t d_rope = args.k_pe.dim(1);
  launch_cache_gather(cuda_exec(exec).stream(), entries_of(args.cache, d_latent, d_rope), args.page_table,
                      args.page_size, args.length, rows_of(args.latent), rows_of(args.k_pe), d_latent,
                      d_rope);
}

}  // namespace nibble::kernels::cuda
