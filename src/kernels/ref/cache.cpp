#include <algorithm>
#include <cmath>
#include <limits>

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

// A token whose latent is not finite gets a scale that is not: its entry reads as NaN, never as a number.
void store_fp8(const TensorView& cache, std::int64_t slot, const float* latent, std::int64_t d_latent,
               const float* k_pe, std::int64_t d_rope) {
  constexpr float kFloor = 1e-12F;
  const bool e4m3 = cache.dtype == DType::f8_e4m3;
  std::uint8_t* entry = cache.as<std::uint8_t>() + slot * cache.stride[0];
  float amax = kFloor;
  bool finite = true;
  for (std::int64_t i = 0; i < d_latent; ++i) {
    finite &= std::isfinite(latent[i]);
    amax = std::max(amax, std::fabs(latent[i]));
  }
  const float scale = amax / (e4m3 ? quant::kE4m3Max : quant::kE5m2Max);
  for (std::int64_t i = 0; i < d_latent; ++i) {
    const float x = finite ? latent[i] / scale : 0.0F;
    entry[i] = e4m3 ? quant::float_to_e4m3_saturated(x) : quant::float_to_e5m2_saturated(x);
  }
  const float stored = finite ? scale : std::numeric_limits<float>::quiet_NaN();
  std::memcpy(entry + fp8_scale_offset(d_latent), &stored, sizeof(stored));
  auto* rope = reinterpret_cast<std::uint16_t*>(entry + fp8_rope_offset(d_latent));
  for (std::int64_t i = 0; i < d_rope; ++i) rope[i] = quant::float_to_bf16(k_pe[i]);
}

}  // namespace

void cache_write(Exec& exec, const CacheWriteArgs& args) {
  if (args.prologue != nullptr) {
    const CacheEntryPrologue& p = *args.prologue;
    rms_norm(exec, {.x = args.latent, .weight = p.norm_weight, .eps = p.norm_eps, .y = args.latent});
    rope(exec, {.x = args.k_pe, .positions = p.positions, .cos = p.cos, .sin = p.sin});
  }
  const std::int64_t d_latent = args.latent.dim(1);
  const std::int64_t d_rope = args.k_pe.dim(1);
  check_cache(args.cache, d_latent, d_rope);
  exec.threads().parallel_for(args.latent.dim(0), [&](std::int64_t i, int) {
    const std::int64_t slot = args.slot_mapping[i];
    NIB_CHECK(slot >= 0 && slot < args.cache.dim(0), "slot {} of {}", slot, args.cache.dim(0));
    if (is_fp8_cache(args.cache.dtype)) {
      store_fp8(args.cache, slot, row_of(args.latent, i), d_latent, row_of(args.k_pe, i), d_rope);
      return;
    }
    store(args.cache, slot, 0, row_of(args.latent, i), d_latent);
    store(args.cache, slot, d_latent, row_of(args.k_pe, i), d_rope);
  });
}

void cache_gather(Exec& exec, const CacheGatherArgs& args) {
  const std::int64_t d_latent = args.latent.dim(1);
  const std::int64_t d_rope = args.k_pe.dim(1);
  check_cache(args.cache, d_latent, d_rope);
  const ThreadFloats scratch(exec, d_latent + d_rope);
  exec.threads().parallel_for(args.length, [&](std::int64_t i, int thread) {
    const std::int64_t page = args.page_table[i / args.page_size];
    const float* entry = cache_entry(args.cache, page * args.page_size + i % args.page_size, d_latent, d_rope,
                                     scratch.of(thread));
    std::copy_n(entry, d_latent, row_of(args.latent, i));
    std::copy_n(entry + d_latent, d_rope, row_of(args.k_pe, i));
  });
}

}  // namespace nibble::kernels::ref
