#include "tests/models/paged_runner.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "comm/communicator.h"
#include "tests/support/random.h"

namespace nibble::testing {

void Trace::record(const char* name, std::int32_t layer_idx, const TensorView& value) {
  Entry entry{.name = name, .layer_idx = layer_idx, .width = value.dim(1)};
  for (std::int64_t row = 0; row < value.dim(0); ++row) {
    const TensorView v = value.row(row);
    if (value.dtype == DType::i32) {
      entry.i32.insert(entry.i32.end(), v.as<std::int32_t>(), v.as<std::int32_t>() + v.dim(0));
    } else {
      entry.f32.insert(entry.f32.end(), v.f32(), v.f32() + v.dim(0));
    }
  }
  entries.push_back(std::move(entry));
}

const Trace::Entry& Trace::at(const std::string& name, std::int32_t layer_idx) const {
  for (const Entry& entry : entries) {
    if (entry.name == name && entry.layer_idx == layer_idx) return entry;
  }
  throw std::out_of_range("no trace of " + name);
}

PagedRunner::PagedRunner(const models::Model& model, kernels::Device& device,
                         std::vector<std::vector<std::int32_t>> sequences, const Options& options)
    : model_(model), device_(device), options_(options) {
  max_pages_ = (options.max_len + options.page_size - 1) / options.page_size;
  const auto num_seqs = static_cast<std::int32_t>(sequences.size());
  const std::int32_t num_pages = num_seqs * max_pages_ + 3;
  std::vector<std::int32_t> free_pages;
  for (std::int32_t p = 0; p < num_pages; ++p) free_pages.push_back(p);
  Random random(7);
  for (std::int32_t i = num_pages; i > 1; --i) {
    std::swap(free_pages[static_cast<std::size_t>(i - 1)],
              free_pages[static_cast<std::size_t>(random.below(i))]);
  }
  poison_page_ = free_pages.back();
  for (std::vector<std::int32_t>& tokens : sequences) {
    Sequence& s = sequences_.emplace_back();
    s.tokens = std::move(tokens);
    s.pages.assign(free_pages.begin(), free_pages.begin() + max_pages_);
    free_pages.erase(free_pages.begin(), free_pages.begin() + max_pages_);
  }
  for (std::int32_t layer = 0; layer < model.info().num_layers; ++layer) {
    for (const layers::CacheSpec& spec : model.cache_specs()) {
      const std::int64_t slots = std::int64_t{num_pages} * options.page_size;
      Buffer& memory = cache_memory_.emplace_back(static_cast<std::size_t>(slots * spec.bytes_per_entry()));
      std::memset(memory.data(), 0xFF, memory.size());  // NaN in float32 and in bf16
      cache_tensors_.push_back(make_view(memory.data(), spec.dtype, {slots, spec.width}));
    }
  }
}

PagedRunner::Batch PagedRunner::build(const Step& step) const {
  Batch batch;
  for (const Chunk& chunk : step) {
    const Sequence& s = sequences_[static_cast<std::size_t>(chunk.seq)];
    const std::int32_t end = chunk.begin + chunk.count;
    if (chunk.count > 1 || chunk.begin == 0) ++batch.num_prefill;
    for (std::int32_t p = chunk.begin; p < end; ++p) {
      batch.logit_rows.push_back(static_cast<std::int32_t>(batch.token_ids.size()));
      batch.token_ids.push_back(s.tokens.at(static_cast<std::size_t>(p)));
      batch.positions.push_back(p);
      const std::int32_t page = s.pages.at(static_cast<std::size_t>(p / options_.page_size));
      batch.slot_mapping.push_back(page * options_.page_size + p % options_.page_size);
    }
    batch.cu_seqlens_q.push_back(static_cast<std::int32_t>(batch.token_ids.size()));
    batch.seq_lens.push_back(end);
    for (std::int32_t i = 0; i < max_pages_; ++i) {
      const bool is_used = i * options_.page_size < end;
      batch.page_tables.push_back(is_used ? s.pages[static_cast<std::size_t>(i)] : poison_page_);
    }
  }
  return batch;
}

layers::ForwardBatch PagedRunner::view(const Batch& batch) const {
  return {.token_ids = batch.token_ids,
          .positions = batch.positions,
          .cu_seqlens_q = batch.cu_seqlens_q,
          .seq_lens = batch.seq_lens,
          .page_tables = batch.page_tables,
          .max_pages = max_pages_,
          .slot_mapping = batch.slot_mapping,
          .logit_rows = batch.logit_rows,
          .num_prefill = batch.num_prefill,
          .mla_mode = options_.mla_mode};
}

void PagedRunner::run(const Step& step, layers::TraceSink* trace, layers::InputSink* inputs) {
  const Batch batch = build(step);
  const layers::CacheView cache{.tensors = cache_tensors_,
                                .page_size = options_.page_size,
                                .specs_per_layer = static_cast<std::int32_t>(model_.cache_specs().size())};
  const std::int64_t vocab = model_.info().vocab_size;
  const auto rows = static_cast<std::int64_t>(batch.token_ids.size());
  std::vector<float> logits(static_cast<std::size_t>(rows * vocab));
  const TensorView logits_view = make_view(logits.data(), DType::f32, {rows, vocab});

  Arena counter;
  const kernels::KernelTable counting = kernels::counting_kernels();
  layers::Context count_ctx{
      .table = counting, .exec = device_.exec(), .arena = counter, .comm = comm::single(), .inputs = inputs};
  model_.forward(count_ctx, view(batch), cache, logits_view);

  // Exactly what was counted, full of NaN: too small a count or a read of what was not written shows.
  Arena arena(counter.peak());
  std::byte* scratch = arena.allocate(counter.peak());
  std::memset(scratch, 0xFF, counter.peak());
  arena.reset();
  layers::Context ctx{.table = device_.table(),
                      .exec = device_.exec(),
                      .arena = arena,
                      .comm = comm::single(),
                      .trace = trace,
                      .inputs = inputs};
  model_.forward(ctx, view(batch), cache, logits_view);

  std::int64_t row = 0;
  for (const Chunk& chunk : step) {
    const auto begin = logits.begin() + row * vocab;
    std::vector<float>& out = sequence(chunk.seq).logits;
    out.insert(out.end(), begin, begin + std::int64_t{chunk.count} * vocab);
    row += chunk.count;
  }
}

}  // namespace nibble::testing
