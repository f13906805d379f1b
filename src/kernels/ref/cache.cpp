#include <algorithm>

#include "kernels/ref/ops.h"
#include "kernels/ref/scalar.h"

namespace nibble::kernels::ref {
namespace {

void store(const TensorView& cache, std::int64_t slot, std::int64_t offset, const float* values,
           std::int64_t count) {
  if (cache.dtype == DType::f32) {
    std::copy_n(values, count, cache.as<float>() + slot * cache.stride[0] + offset);
    return;
  }
  std::uint16_t* entry = cache.as<std::uint16_t>() + slot * cache.stride[0] + offset;
  for (std::int64_t i = 0; i < count; ++i) entry[i] = quant::float_to_bf16(values[i]);
}

}  // namespace

void cache_write(Exec& exec, const CacheWriteArgs& args) {
  check_cache_dtype(args.cache);
  const std::int64_t d_latent = args.latent.dim(1);
  const std::int64_t d_rope = args.k_pe.dim(1);
  NIB_CHECK(args.cache.dim(1) == d_latent + d_rope, "cache entries hold {} values, not {} + {}",
            args.cache.dim(1), d_latent, d_rope);
  exec.threads().parallel_for(args.latent.dim(0), [&](std::int64_t i, int) {
    const std::int64_t slot = args.slot_mapping[i];
    NIB_CHECK(slot >= 0 && slot < args.cache.dim(0), "slot {} of {}", slot, args.cache.dim(0));
    store(args.cache, slot, 0, row_of(args.latent, i), d_latent);
    store(args.cache, slot, d_latent, row_of(args.k_pe, i), d_rope);
  });
}

void cache_gather(Exec& exec, const CacheGatherArgs& args) {
  check_cache_dtype(args.cache);
  const std::int64_t d_latent = args.latent.dim(1);
  const std::int64_t d_rope = args.k_pe.dim(1);
  NIB_CHECK(args.cache.dim(1) == d_latent + d_rope, "cache entries hold {} values, not {} + {}",
            args.cache.dim(1), d_latent, d_rope);
  const ThreadFloats scratch(exec, args.cache.dim(1));
  exec.threads().parallel_for(args.length, [&](std::int64_t i, int thread) {
    const std::int64_t page = args.page_table[i / args.page_size];
    const float* entry =
        cache_entry(args.cache, page * args.page_size + i % args.page_size, scratch.of(thread));
    std::copy_n(entry, d_latent, row_of(args.latent, i));
    std::copy_n(entry + d_latent, d_rope, row_of(args.k_pe, i));
  });
}

}  // namespace nibble::kernels::ref
