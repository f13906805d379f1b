// Both forms of attention go block by block over the keys with a running maximum and sum (online
// softmax), so scratch does not grow with the context.
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "kernels/cpu/scratch.h"
#include "quant/float16.h"

namespace nibble::kernels::cpu {
namespace {

constexpr std::int64_t kBlockKeys = 64;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Running softmax of a few query rows.
struct SoftmaxRows {
  const Tier& tier;
  float* scores;  // [rows, kBlockKeys]
  float* max;     // [rows]
  float* sum;     // [rows]
  float* out;     // [rows] of d values, stride out_stride; holds unnormalised sums
  std::int64_t out_stride;
  std::int64_t d;

  void reset(std::int64_t rows) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      max[r] = kMinusInfinity;
      sum[r] = 0.0F;
      std::fill_n(out + r * out_stride, d, 0.0F);
    }
  }

  // Turns the first `visible` scores of row r into weights relative to the new maximum and rescales
  // what was summed before. Weights past `visible` become 0.
  void absorb(std::int64_t r, std::int64_t visible, std::int64_t block, float scale) const {
    float* s = scores + r * kBlockKeys;
    std::fill(s + visible, s + block, 0.0F);
    if (visible == 0) return;
    float block_max = kMinusInfinity;
    for (std::int64_t i = 0; i < visible; ++i) {
      s[i] *= scale;
      block_max = std::max(block_max, s[i]);
    }
    if (block_max > max[r]) {
      const float keep = max[r] == kMinusInfinity ? 0.0F : std::exp(max[r] - block_max);
      sum[r] *= keep;
      float* o = out + r * out_stride;
      for (std::int64_t i = 0; i < d; ++i) o[i] *= keep;
      max[r] = block_max;
    }
    sum[r] += tier.exp_sum(s, visible, max[r]);
  }

  void finish(std::int64_t rows) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      const float inverse = 1.0F / sum[r];
      float* o = out + r * out_stride;
      for (std::int64_t i = 0; i < d; ++i) o[i] *= inverse;
    }
  }
};

const std::byte* cache_entry(const TensorView& cache, std::int64_t slot) {
  return cache.as<const std::byte>() + slot * cache.stride[0] * dtype_bits(cache.dtype) / 8;
}

// A block of consecutive cache entries as the inner products read them: latents, and rope keys apart.
struct KeyBlock {
  const void* latents;
  const void* ropes;
  bool bf16;
  std::int64_t stride;  // in elements
};

// Decodes the entries of a block of an FP8 cache into [kBlockKeys, d_latent + d_rope] floats.
KeyBlock decode_block(const Tier& tier, const TensorView& cache, const std::byte* entry, std::int64_t block,
                      std::int64_t d_latent, std::int64_t d_rope, float* decoded) {
  const std::int64_t width = d_latent + d_rope;
  for (std::int64_t i = 0; i < block; ++i) {
    const std::byte* from = entry + i * cache.stride[0];
    float* to = decoded + i * width;
    float scale;
    std::memcpy(&scale, from + fp8_scale_offset(d_latent), sizeof(scale));
    tier.decode_fp8(reinterpret_cast<const std::uint8_t*>(from), d_latent, scale,
                    cache.dtype == DType::f8_e5m2, to);
    const auto* rope = reinterpret_cast<const std::uint16_t*>(from + fp8_rope_offset(d_latent));
    for (std::int64_t r = 0; r < d_rope; ++r) to[d_latent + r] = quant::bf16_to_float(rope[r]);
  }
  return {.latents = decoded, .ropes = decoded + d_latent, .bf16 = false, .stride = width};
}

// All rows (heads of one query token) of one task over one sequence's pages.
struct AbsorbedTask {
  const MlaAbsorbedArgs& args;
  std::int64_t token;
  std::int64_t head;
  std::int64_t num_heads;
  const std::int32_t* page_table;
  std::int64_t length;  // visible entries
  float* decoded;       // FP8: [kBlockKeys, d_latent + d_rope]

  [[nodiscard]] KeyBlock keys(const Tier& tier, std::int64_t slot, std::int64_t block) const {
    const std::int64_t rank = args.q_latent.dim(2);
    const std::byte* entry = cache_entry(args.cache, slot);
    if (is_fp8_cache(args.cache.dtype)) {
      return decode_block(tier, args.cache, entry, block, rank, args.q_pe.dim(2), decoded);
    }
    const bool bf16 = args.cache.dtype == DType::bf16;
    return {.latents = entry,
            .ropes = entry + rank * (bf16 ? 2 : 4),
            .bf16 = bf16,
            .stride = args.cache.stride[0]};
  }

  void run(const SoftmaxRows& rows) const {
    const std::int64_t page_size = args.ragged.page_size;
    rows.reset(num_heads);
    for (std::int64_t begin = 0; begin < length;) {
      const std::int64_t in_page = begin % page_size;
      const std::int64_t block = std::min({kBlockKeys, page_size - in_page, length - begin});
      const KeyBlock k = keys(rows.tier, page_table[begin / page_size] * page_size + in_page, block);
      DotBlock dot{
          .q = args.q_latent.f32() + token * args.q_latent.stride[0] + head * args.q_latent.stride[1],
          .q_stride = args.q_latent.stride[1],
          .num_q = num_heads,
          .keys = k.latents,
          .keys_bf16 = k.bf16,
          .key_stride = k.stride,
          .num_keys = block,
          .d = args.q_latent.dim(2),
          .out = rows.scores,
          .out_stride = kBlockKeys};
      rows.tier.dot_block(dot);
      dot.q = args.q_pe.f32() + token * args.q_pe.stride[0] + head * args.q_pe.stride[1];
      dot.q_stride = args.q_pe.stride[1];
      dot.keys = k.ropes;
      dot.d = args.q_pe.dim(2);
      dot.accumulate = true;
      rows.tier.dot_block(dot);
      for (std::int64_t r = 0; r < num_heads; ++r) rows.absorb(r, block, block, args.scale);
      rows.tier.weighted_sum({.p = rows.scores,
                              .p_stride = kBlockKeys,
                              .num_q = num_heads,
                              .values = k.latents,
                              .values_bf16 = k.bf16,
                              .value_stride = k.stride,
                              .num_values = block,
                              .d = args.q_latent.dim(2),
                              .out = rows.out,
                              .out_stride = rows.out_stride});
      begin += block;
    }
    rows.finish(num_heads);
  }
};

}  // namespace

void mla_absorbed(const Tier& tier, Exec& exec, const MlaAbsorbedArgs& args) {
  const std::int64_t num_tokens = args.q_latent.dim(0);
  const std::int64_t heads = args.q_latent.dim(1);
  const RaggedArgs& ragged = args.ragged;
  if (num_tokens == 0) return;
  const std::int64_t width = args.q_latent.dim(2) + args.q_pe.dim(2);
  NIB_CHECK(args.cache.dim(1) == cache_width(args.cache.dtype, args.q_latent.dim(2), args.q_pe.dim(2)),
            "cache rows of {} for {} + {}", args.cache.dim(1), args.q_latent.dim(2), args.q_pe.dim(2));
  ThreadPool& threads = exec.threads();
  // Heads of one token share the cache lines they read: few, large groups.
  const std::int64_t groups =
      std::min(heads, std::max<std::int64_t>(1, ceil_div(2 * threads.num_threads(), num_tokens)));
  const std::int64_t group_heads = ceil_div(heads, groups);
  const std::size_t row_bytes = static_cast<std::size_t>(group_heads * (kBlockKeys + 2)) * 4;
  const std::size_t decoded_bytes =
      is_fp8_cache(args.cache.dtype) ? static_cast<std::size_t>(kBlockKeys * width) * 4 : 0;
  const std::size_t thread_bytes = align_scratch(row_bytes) + align_scratch(decoded_bytes);
  std::byte* team_scratch = exec.scratch(thread_bytes * static_cast<std::size_t>(threads.num_threads()));
  threads.parallel_for(num_tokens * ceil_div(heads, group_heads), [&](std::int64_t i, int thread) {
    const std::int64_t token = i / ceil_div(heads, group_heads);
    const std::int64_t head = i % ceil_div(heads, group_heads) * group_heads;
    const std::int32_t* end = ragged.cu_seqlens_q + ragged.num_seqs + 1;
    const std::int64_t seq =
        std::upper_bound(ragged.cu_seqlens_q, end, token + ragged.cu_seqlens_q[0]) - ragged.cu_seqlens_q - 1;
    const std::int64_t from_end = ragged.cu_seqlens_q[seq + 1] - ragged.cu_seqlens_q[0] - 1 - token;
    auto* scores = reinterpret_cast<float*>(team_scratch + static_cast<std::size_t>(thread) * thread_bytes);
    float* max = scores + group_heads * kBlockKeys;
    const SoftmaxRows rows{.tier = tier,
                           .scores = scores,
                           .max = max,
                           .sum = max + group_heads,
                           .out = args.o.f32() + token * args.o.stride[0] + head * args.o.stride[1],
                           .out_stride = args.o.stride[1],
                           .d = args.q_latent.dim(2)};
    AbsorbedTask{.args = args,
                 .token = token,
                 .head = head,
                 .num_heads = std::min(group_heads, heads - head),
                 .page_table = ragged.page_tables + seq * ragged.max_pages,
                 .length = ragged.seq_lens[seq] - from_end,
                 .decoded = scores + align_scratch(row_bytes) / sizeof(float)}
        .run(rows);
  });
}

void mha(const Tier& tier, Exec& exec, const MhaArgs& args) {
  constexpr std::int64_t kBlockQueries = 32;
  const std::int64_t m = args.q_nope.dim(0);
  const std::int64_t heads = args.q_nope.dim(1);
  const std::int64_t length = args.k_nope.dim(0);
  if (m == 0) return;
  ThreadPool& threads = exec.threads();
  const std::size_t thread_bytes =
      align_scratch(static_cast<std::size_t>(kBlockQueries * (kBlockKeys + 2)) * 4);
  std::byte* team_scratch = exec.scratch(thread_bytes * static_cast<std::size_t>(threads.num_threads()));
  const std::int64_t query_blocks = ceil_div(m, kBlockQueries);
  threads.parallel_for(heads * query_blocks, [&](std::int64_t i, int thread) {
    const std::int64_t head = i / query_blocks;
    const std::int64_t q0 = i % query_blocks * kBlockQueries;
    const std::int64_t num_q = std::min(kBlockQueries, m - q0);
    auto* scores = reinterpret_cast<float*>(team_scratch + static_cast<std::size_t>(thread) * thread_bytes);
    float* max = scores + kBlockQueries * kBlockKeys;
    const SoftmaxRows rows{.tier = tier,
                           .scores = scores,
                           .max = max,
                           .sum = max + kBlockQueries,
                           .out = args.o.f32() + q0 * args.o.stride[0] + head * args.o.stride[1],
                           .out_stride = args.o.stride[0],
                           .d = args.v.dim(2)};
    rows.reset(num_q);
    const std::int64_t visible_end = length - m + q0 + num_q;  // keys the last query of the block sees
    for (std::int64_t k0 = 0; k0 < visible_end; k0 += kBlockKeys) {
      const std::int64_t block = std::min(kBlockKeys, visible_end - k0);
      DotBlock dot{.q = args.q_nope.f32() + q0 * args.q_nope.stride[0] + head * args.q_nope.stride[1],
                   .q_stride = args.q_nope.stride[0],
                   .num_q = num_q,
                   .keys = args.k_nope.f32() + k0 * args.k_nope.stride[0] + head * args.k_nope.stride[1],
                   .key_stride = args.k_nope.stride[0],
                   .num_keys = block,
                   .d = args.k_nope.dim(2),
                   .out = scores,
                   .out_stride = kBlockKeys};
      tier.dot_block(dot);
      dot.q = args.q_pe.f32() + q0 * args.q_pe.stride[0] + head * args.q_pe.stride[1];
      dot.q_stride = args.q_pe.stride[0];
      dot.keys = args.k_pe.f32() + k0 * args.k_pe.stride[0];
      dot.key_stride = args.k_pe.stride[0];
      dot.d = args.k_pe.dim(1);
      dot.accumulate = true;
      tier.dot_block(dot);
      for (std::int64_t r = 0; r < num_q; ++r) {
        rows.absorb(r, std::clamp<std::int64_t>(length - m + q0 + r + 1 - k0, 0, block), block, args.scale);
      }
      tier.weighted_sum({.p = scores,
                         .p_stride = kBlockKeys,
                         .num_q = num_q,
                         .values = args.v.f32() + k0 * args.v.stride[0] + head * args.v.stride[1],
                         .value_stride = args.v.stride[0],
                         .num_values = block,
                         .d = args.v.dim(2),
                         .out = rows.out,
                         .out_stride = rows.out_stride});
    }
    rows.finish(num_q);
  });
}

}  // namespace nibble::kernels::cpu
