#include "engine/sizing.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace nibble::engine {
namespace {

// Bounds that keep every product of sizes far from overflow; larger values are mistakes.
constexpr std::int32_t kMaxNumSeqs = 4096;
constexpr std::int32_t kMaxBatchedTokens = 65536;
constexpr std::int32_t kMaxPageSize = 4096;
// A default context is never shorter: a model that does not fit with this one does not fit.
constexpr std::int32_t kMinModelLen = 256;
// Known tokens may be fed two sequences at a time (LogitsRequest::batch_with) whatever max_num_seqs is.
constexpr std::int32_t kMinRunnerSeqs = 2;

Status check_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value >= low && value <= high) return {};
  return bad_input(fmt::format("{} is {}, must be from {} to {}", name, value, low, high));
}

Status check_request(const SizeRequest& request, std::int32_t model_len) {
  NIB_TRY_STATUS(check_range("max_num_seqs", request.max_num_seqs, 1, kMaxNumSeqs));
  NIB_TRY_STATUS(check_range("max_num_batched_tokens", request.max_num_batched_tokens, 1, kMaxBatchedTokens));
  NIB_TRY_STATUS(check_range("page_size", request.page_size, 1, kMaxPageSize));
  if (request.max_num_batched_tokens < request.max_num_seqs) {
    return bad_input(
        fmt::format("max_num_batched_tokens {} is below max_num_seqs {}: every running sequence needs one "
                    "token a step",
                    request.max_num_batched_tokens, request.max_num_seqs));
  }
  if (request.max_model_len < 0 || request.max_model_len > model_len) {
    return bad_input(fmt::format(
        "max_model_len is {}, must be from 1 to the model's max_position_embeddings {} (0 = choose)",
        request.max_model_len, model_len));
  }
  return {};
}

std::int64_t pages_for(std::int64_t tokens, std::int32_t page_size) {
  return (tokens + page_size - 1) / page_size;
}

struct Need {
  std::uint64_t scratch = 0;
  std::uint64_t page = 0;  // bytes of one cache page
  std::int64_t pages_per_seq = 0;
  [[nodiscard]] std::uint64_t one_sequence() const {
    return scratch + page * static_cast<std::uint64_t>(pages_per_seq);
  }
};

RunnerLimits limits_for(const SizeRequest& request, std::int32_t max_model_len) {
  return {.max_num_batched_tokens = request.max_num_batched_tokens,
          .max_num_seqs = std::max(request.max_num_seqs, kMinRunnerSeqs),
          .max_model_len = max_model_len,
          .page_size = request.page_size,
          .mla_mode = request.mla_mode};
}

Result<Need> need_for(const models::Model& model, Backend backend, const SizeRequest& request,
                      std::int32_t max_model_len) {
  NIB_TRY(const std::size_t scratch, scratch_bytes(model, backend, limits_for(request, max_model_len)));
  const std::size_t per_token = cache_bytes_per_token(model.cache_specs(), model.info().num_layers);
  return Need{.scratch = scratch,
              .page = per_token * static_cast<std::uint64_t>(request.page_size),
              .pages_per_seq = pages_for(max_model_len, request.page_size)};
}

}  // namespace

Result<EngineSizes> choose_sizes(const models::Model& model, Backend backend, const SizeRequest& request,
                                 std::uint64_t memory) {
  const std::int32_t model_len = model.info().max_position_embeddings;
  NIB_TRY_STATUS(check_request(request, model_len));
  const bool chosen_by_user = request.max_model_len > 0;
  const std::uint64_t share = memory / 2;
  std::int32_t max_model_len = chosen_by_user ? request.max_model_len : model_len;
  NIB_TRY(Need need, need_for(model, backend, request, max_model_len));
  while (!chosen_by_user && need.one_sequence() > share && max_model_len / 2 >= kMinModelLen) {
    max_model_len /= 2;
    NIB_TRY(need, need_for(model, backend, request, max_model_len));
  }
  if (need.one_sequence() > memory) {
    return out_of_memory(
        fmt::format("a context of {} tokens needs {} bytes of cache and {} bytes of scratch memory, {} "
                    "bytes are available; lower max_model_len or max_num_batched_tokens",
                    max_model_len, need.one_sequence() - need.scratch, need.scratch, memory));
  }
  const auto fitting = static_cast<std::int64_t>((share - std::min(share, need.scratch)) /
                                                 std::max<std::uint64_t>(1, need.page));
  // Slots are counted in 32 bits.
  const std::int64_t countable = std::numeric_limits<std::int32_t>::max() / request.page_size;
  const std::int64_t num_pages =
      std::min({need.pages_per_seq * request.max_num_seqs, std::max(need.pages_per_seq, fitting),
                std::max<std::int64_t>(1, countable)});
  return EngineSizes{.config = {.runner = limits_for(request, max_model_len),
                                .max_num_seqs = request.max_num_seqs,
                                .num_pages = static_cast<std::int32_t>(num_pages)},
                     .cache_bytes = static_cast<std::size_t>(num_pages) * need.page,
                     .scratch_bytes = need.scratch};
}

}  // namespace nibble::engine
