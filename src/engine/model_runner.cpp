#include "engine/model_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <new>
#include <vector>

#include "comm/communicator.h"
#include "core/check.h"
#include "core/out_of_memory.h"
#include "engine/batch_builder.h"

namespace nibble::engine {
namespace {

// A batch at the limits: `num_seqs` sequences share `num_tokens` tokens evenly, each ends at
// max_model_len (or is as long as its chunk), and the logits of every token are wanted.
std::size_t count_scratch(const models::Model& model, Backend backend, const RunnerLimits& limits,
                          const Cache& cache, std::int32_t num_seqs, std::int32_t num_tokens) {
  const auto max_len = static_cast<std::size_t>(limits.max_model_len);
  const std::vector<TokenId> tokens(max_len, 0);
  const std::vector<PageId> pages(
      (max_len + static_cast<std::size_t>(limits.page_size) - 1) / static_cast<std::size_t>(limits.page_size),
      0);
  std::vector<BatchItem> items;
  std::int32_t rest = num_tokens;
  for (std::int32_t i = 0; i < num_seqs; ++i) {
    const std::int32_t count = std::min(rest / (num_seqs - i), limits.max_model_len);
    rest -= count;
    if (count == 0) continue;
    items.push_back(
        {.tokens = tokens, .begin = limits.max_model_len - count, .count = count, .pages = pages});
  }
  std::stable_partition(items.begin(), items.end(), [](const BatchItem& item) { return item.is_prefill(); });
  BatchBuilder builder(num_tokens, num_seqs, static_cast<std::int32_t>(pages.size()));
  const layers::ForwardBatch batch = builder.build(items, limits.page_size, limits.mla_mode);
  Arena arena;
  const kernels::KernelTable counting = kernels::counting_kernels();
  layers::Context ctx{.table = counting, .exec = backend.exec, .arena = arena, .comm = comm::single()};
  const auto num_logits = static_cast<std::int64_t>(batch.logit_rows.size());
  model.forward(ctx, batch, cache.view(), Arena().tensor(DType::f32, {num_logits, model.info().vocab_size}));
  return arena.peak();
}

std::size_t logits_bytes(std::int64_t rows, std::int64_t vocab_size) {
  return static_cast<std::size_t>(rows * vocab_size) * sizeof(float);
}

// Makes room for the logits of so many rows.
template <class Allocate>
void grow(Buffer& buffer, std::int64_t rows, std::int64_t vocab_size, Allocate&& allocate) {
  const std::size_t bytes = logits_bytes(rows, vocab_size);
  if (bytes <= buffer.size()) return;
  buffer = Buffer();  // first give back, then take: never both at once
  buffer = allocate(bytes);
}

}  // namespace

Result<std::size_t> scratch_bytes(const models::Model& model, Backend backend, const RunnerLimits& limits) {
  const CacheShape shape{
      .num_layers = model.info().num_layers, .num_pages = 1, .page_size = limits.page_size};
  NIB_TRY(const Cache cache, Cache::counting(model.cache_specs(), shape));
  const std::int32_t max_tokens = limits.max_num_batched_tokens;
  const std::int32_t max_seqs = std::min(limits.max_num_seqs, max_tokens);
  std::size_t bytes = 0;
  for (const auto& [num_seqs, num_tokens] :
       {std::pair{1, max_tokens}, {max_seqs, max_tokens}, {max_seqs, max_seqs}}) {
    bytes = std::max(bytes, count_scratch(model, backend, limits, cache, num_seqs, num_tokens));
  }
  return bytes;
}

Result<ModelRunner> ModelRunner::create(const models::Model& model, Backend backend, const Cache& cache,
                                        const RunnerLimits& limits) {
  NIB_TRY(const std::size_t scratch, scratch_bytes(model, backend, limits));
  try {
    return ModelRunner(model, backend, cache, limits, scratch);
  } catch (const std::bad_alloc& e) {
    return no_memory(
        fmt::format("no memory for {} bytes of scratch for {} tokens a step at context {}; lower "
                    "max_num_batched_tokens or max_model_len",
                    scratch, limits.max_num_batched_tokens, limits.max_model_len),
        e);
  }
}

ModelRunner::ModelRunner(const models::Model& model, Backend backend, const Cache& cache,
                         const RunnerLimits& limits, std::size_t scratch)
    : model_(&model),
      backend_(backend),
      cache_(&cache),
      limits_(limits),
      arena_(scratch, backend.exec.memory()),
      device_batch_(backend.exec, limits.max_num_seqs) {}

TensorView ModelRunner::run(const layers::ForwardBatch& host_batch) {
  check_limits(host_batch);
  const layers::ForwardBatch batch = device_batch_.place(host_batch);
  MemorySpace& memory = backend_.exec.memory();
  const auto rows = static_cast<std::int64_t>(batch.logit_rows.size());
  const std::int64_t vocab_size = model_->info().vocab_size;
  grow(logits_, rows, vocab_size, [&](std::size_t bytes) {
    backend_.exec.forget_recorded();
    return memory.allocate(bytes);
  });
  const TensorView logits = make_view(logits_.data(), DType::f32, {rows, vocab_size});
  const auto launch = [&] { forward(batch, logits); };
  backend_.exec.run_recorded(device_batch_.record_key(), std::ref(launch));  // a reference allocates nothing
  const auto wanted = static_cast<std::int64_t>(host_batch.logit_rows.size());  // the rest is padding
  // Nobody will fetch a result: the batch's upload must end before the next batch takes its place.
  if (wanted == 0) memory.download({}, nullptr);
  return logits.rows(0, wanted);
}

TensorView ModelRunner::download(const TensorView& logits) {
  MemorySpace& memory = backend_.exec.memory();
  if (memory.is_host()) return logits;
  const std::int64_t rows = logits.dim(0);
  const std::int64_t vocab_size = logits.dim(1);
  grow(host_logits_, rows, vocab_size, [&](std::size_t bytes) { return memory.allocate_staging(bytes); });
  memory.download(host_logits_.bytes().first(logits_bytes(rows, vocab_size)), logits.as<const std::byte>());
  return make_view(host_logits_.data(), DType::f32, {rows, vocab_size});
}

void ModelRunner::forward(const layers::ForwardBatch& batch, TensorView logits) {
  arena_.reset();
  layers::Context ctx{
      .table = backend_.table, .exec = backend_.exec, .arena = arena_, .comm = comm::single()};
  model_->forward(ctx, batch, cache_->view(), logits);
}

void ModelRunner::check_limits(const layers::ForwardBatch& batch) const {
  NIB_CHECK(batch.num_tokens() <= limits_.max_num_batched_tokens && batch.num_seqs() <= limits_.max_num_seqs,
            "a batch of {} tokens and {} sequences is over the limits {} and {}", batch.num_tokens(),
            batch.num_seqs(), limits_.max_num_batched_tokens, limits_.max_num_seqs);
  for (const std::int32_t len : batch.seq_lens) {
    NIB_CHECK(len <= limits_.max_model_len, "a sequence of {} tokens is over max_model_len {}", len,
              limits_.max_model_len);
  }
}

bool all_finite(std::span<const float> row) noexcept {
  // The exponent is all ones in exactly NaN and infinity; written without a branch so that it becomes
  // vector code.
  constexpr std::uint32_t kExponent = 0x7F800000U;
  std::uint32_t bad = 0;
  for (const float value : row)
    bad |= static_cast<std::uint32_t>((std::bit_cast<std::uint32_t>(value) & kExponent) == kExponent);
  return bad == 0;
}

}  // namespace nibble::engine
