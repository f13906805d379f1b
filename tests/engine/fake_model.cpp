#include "tests/engine/fake_model.h"

#include <algorithm>
#include <limits>

#include "core/check.h"
#include "tests/support/random.h"

namespace nibble::testing {
namespace {

constexpr std::int64_t kWidth = 3;  // token, position, layer

std::uint64_t hash_tokens(std::span<const TokenId> tokens) {
  std::uint64_t hash = 0;
  for (const TokenId token : tokens) hash = Random(hash ^ static_cast<std::uint64_t>(token)).next();
  return hash;
}

SeenBatch describe(const layers::ForwardBatch& batch) {
  SeenBatch seen{.num_prefill = batch.num_prefill,
                 .num_logits = static_cast<std::int32_t>(batch.logit_rows.size())};
  for (std::size_t s = 0; s < batch.seq_lens.size(); ++s) {
    const std::int32_t count = batch.cu_seqlens_q[s + 1] - batch.cu_seqlens_q[s];
    seen.seqs.push_back({batch.seq_lens[s] - count, count});
  }
  return seen;
}

// What every model may rely on.
void check_batch(const layers::ForwardBatch& batch, const layers::CacheView& cache) {
  const auto num_tokens = static_cast<std::size_t>(batch.num_tokens());
  const auto num_seqs = static_cast<std::size_t>(batch.num_seqs());
  NIB_CHECK(num_seqs > 0 && batch.positions.size() == num_tokens && batch.slot_mapping.size() == num_tokens,
            "sizes");
  NIB_CHECK(batch.cu_seqlens_q.size() == num_seqs + 1 && batch.cu_seqlens_q.front() == 0, "cu_seqlens_q");
  NIB_CHECK(batch.cu_seqlens_q.back() == batch.num_tokens(), "cu_seqlens_q ends at {}",
            batch.cu_seqlens_q.back());
  NIB_CHECK(batch.page_tables.size() == num_seqs * static_cast<std::size_t>(batch.max_pages), "page_tables");
  NIB_CHECK(std::is_sorted(batch.logit_rows.begin(), batch.logit_rows.end()), "logit_rows");
  for (std::size_t s = 0; s < num_seqs; ++s) {
    const std::int32_t count = batch.cu_seqlens_q[s + 1] - batch.cu_seqlens_q[s];
    const std::int32_t begin = batch.seq_lens[s] - count;
    NIB_CHECK(count > 0 && begin >= 0, "sequence {} has tokens {}..{}", s, begin, batch.seq_lens[s]);
    const bool is_prefill = count > 1 || begin == 0;
    NIB_CHECK(is_prefill == (s < static_cast<std::size_t>(batch.num_prefill)), "sequence {} is out of order",
              s);
    NIB_CHECK(batch.seq_lens[s] <= batch.max_pages * cache.page_size, "sequence {} has too few pages", s);
    for (std::int32_t i = 0; i < count; ++i) {
      NIB_CHECK(batch.positions[static_cast<std::size_t>(batch.cu_seqlens_q[s] + i)] == begin + i,
                "positions");
    }
  }
}

}  // namespace

FakeModel::FakeModel(std::int32_t vocab_size, std::int32_t max_position_embeddings) {
  info_ = {.model_type = "fake",
           .vocab_size = vocab_size,
           .max_position_embeddings = max_position_embeddings,
           .num_layers = 2};
  specs_ = {{.name = "tokens", .tokens_per_entry = 1, .window = 0, .width = kWidth, .dtype = DType::f32}};
}

std::vector<float> FakeModel::logits_after(std::span<const TokenId> tokens) const {
  if (nan_after == tokens.back()) {
    std::vector<float> row(static_cast<std::size_t>(info_.vocab_size), 0.5F);
    row[row.size() / 2] = std::numeric_limits<float>::quiet_NaN();
    return row;
  }
  return Random(hash_tokens(tokens)).floats(info_.vocab_size, -4.0F, 4.0F);
}

std::vector<TokenId> FakeModel::greedy_reply(std::vector<TokenId> prompt, int n) const {
  std::vector<TokenId> reply;
  for (int i = 0; i < n; ++i) {
    const std::vector<float> logits = logits_after(prompt);
    reply.push_back(static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    prompt.push_back(reply.back());
  }
  return reply;
}

void FakeModel::forward(layers::Context& ctx, const layers::ForwardBatch& batch,
                        const layers::CacheView& cache, TensorView logits) const {
  check_batch(batch, cache);
  const ArenaScope scope(ctx.arena);
  // As layers do: activations of all tokens, and the gathered context of one sequence at a time.
  ctx.arena.tensor(DType::f32, {batch.num_tokens(), 16});
  for (const std::int32_t seq_len : batch.seq_lens) {
    const ArenaScope gathered(ctx.arena);
    ctx.arena.tensor(DType::f32, {seq_len, kWidth});
  }
  if (ctx.arena.counting()) return;
  if (silent) {
    std::fill_n(logits.f32(), logits.num_elements(), 0.0F);
    return;
  }
  seen.push_back(describe(batch));
  write_cache(batch, cache);
  const int forward_idx = num_forwards_++;
  if (on_forward) on_forward(forward_idx);

  std::int32_t seq_idx = 0;
  for (std::size_t i = 0; i < batch.logit_rows.size(); ++i) {
    const std::int32_t row = batch.logit_rows[i];
    while (batch.cu_seqlens_q[static_cast<std::size_t>(seq_idx) + 1] <= row) ++seq_idx;
    const std::int32_t length = batch.positions[static_cast<std::size_t>(row)] + 1;
    const std::vector<float> values = logits_after(read_cache(batch, cache, seq_idx, length));
    std::copy(values.begin(), values.end(), logits.row(static_cast<std::int64_t>(i)).f32());
  }
}

void FakeModel::write_cache(const layers::ForwardBatch& batch, const layers::CacheView& cache) const {
  for (std::int32_t layer_idx = 0; layer_idx < info_.num_layers; ++layer_idx) {
    for (std::size_t i = 0; i < batch.token_ids.size(); ++i) {
      float* entry = cache.layer(layer_idx).row(batch.slot_mapping[i]).f32();
      entry[0] = static_cast<float>(batch.token_ids[i]);
      entry[1] = static_cast<float>(batch.positions[i]);
      entry[2] = static_cast<float>(layer_idx);
    }
  }
}

std::vector<TokenId> FakeModel::read_cache(const layers::ForwardBatch& batch, const layers::CacheView& cache,
                                           std::int32_t seq_idx, std::int32_t length) const {
  const auto table = batch.page_tables.subspan(static_cast<std::size_t>(seq_idx * batch.max_pages),
                                               static_cast<std::size_t>(batch.max_pages));
  std::vector<TokenId> tokens;
  for (std::int32_t position = 0; position < length; ++position) {
    const std::int32_t page = table[static_cast<std::size_t>(position / cache.page_size)];
    const std::int64_t slot = std::int64_t{page} * cache.page_size + position % cache.page_size;
    for (std::int32_t layer_idx = 0; layer_idx < info_.num_layers; ++layer_idx) {
      const TensorView& entries = cache.layer(layer_idx);
      NIB_CHECK(slot >= 0 && slot < entries.dim(0), "slot {} of {}", slot, entries.dim(0));
      const float* entry = entries.row(slot).f32();
      NIB_CHECK(entry[1] == static_cast<float>(position) && entry[2] == static_cast<float>(layer_idx),
                "slot {} holds position {} of layer {}, expected {} of {}", slot, entry[1], entry[2],
                position, layer_idx);
      if (layer_idx == 0) tokens.push_back(static_cast<TokenId>(entry[0]));
    }
  }
  return tokens;
}

models::ActiveBytes FakeModel::active_bytes(std::int64_t num_tokens, std::int64_t context_len) const {
  return {.weights = 1000, .cache = static_cast<std::size_t>(num_tokens * context_len)};
}

double FakeModel::prefill_flops(std::int64_t num_tokens) const {
  return static_cast<double>(num_tokens * num_tokens);
}

}  // namespace nibble::testing
