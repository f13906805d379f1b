#include "engine/device_batch.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "core/memory_space.h"

namespace nibble::engine {
namespace {

// Batch sizes decode steps are padded to: padding costs arithmetic, every size costs a recording.
std::int32_t bucket(std::int32_t num_seqs) {
  constexpr std::int32_t kStep = 8;
  if (num_seqs <= kStep)
    return static_cast<std::int32_t>(std::bit_ceil(static_cast<std::uint32_t>(num_seqs)));
  return (num_seqs + kStep - 1) / kStep * kStep;
}

bool is_decode(const layers::ForwardBatch& batch) {
  return batch.num_tokens() == batch.num_seqs() &&
         batch.logit_rows.size() == static_cast<std::size_t>(batch.num_seqs()) &&
         batch.mla_mode != MlaMode::naive;
}

// Cuts arrays from the staging memory, and their copies on the device.
class Cutter {
 public:
  Cutter(const Buffer& host, const Buffer& device) : host_(host), device_(device) {}
  struct Array {
    std::span<std::int32_t> host;
    const std::int32_t* device;
  };
  Array take(std::size_t size) {
    const Array array{{host_.as<std::int32_t>() + used_, size}, device_.as<const std::int32_t>() + used_};
    used_ += size;
    return array;
  }

 private:
  const Buffer& host_;
  const Buffer& device_;
  std::size_t used_ = 0;
};

// Copies and fills the rest.
void assign(std::span<std::int32_t> to, std::span<const std::int32_t> from, std::int32_t rest) {
  std::ranges::fill(std::ranges::copy(from, to.begin()).out, to.end(), rest);
}

}  // namespace

DeviceBatch::Shape DeviceBatch::padded_shape(const layers::ForwardBatch& batch) const {
  if (!exec_->records() || !is_decode(batch)) {
    return {batch.num_tokens(), batch.num_seqs(), batch.max_pages};
  }
  const std::int32_t num_seqs = std::max(std::min(bucket(batch.num_seqs()), max_num_seqs_), batch.num_seqs());
  const auto max_pages =
      static_cast<std::int32_t>(std::bit_ceil(static_cast<std::uint32_t>(batch.max_pages)));
  return {num_seqs, num_seqs, max_pages};
}

layers::ForwardBatch DeviceBatch::place(const layers::ForwardBatch& batch) {
  record_key_ = 0;
  MemorySpace& memory = exec_->memory();
  if (memory.is_host()) return batch;
  const Shape shape = padded_shape(batch);
  const auto tokens = static_cast<std::size_t>(shape.num_tokens);
  const auto seqs = static_cast<std::size_t>(shape.num_seqs);
  const std::size_t bytes =
      (3 * tokens + 2 * seqs + 1 + seqs * static_cast<std::size_t>(shape.max_pages)) * sizeof(std::int32_t);
  if (bytes > staging_.size()) {
    exec_->forget_recorded();  // they read the arrays that go now
    const std::size_t room = std::bit_ceil(bytes);
    // First give back, then take; if the second cannot be had, neither is there.
    staging_ = Buffer();
    arrays_ = memory.allocate(room);
    staging_ = memory.allocate_staging(room);
  }
  fill(batch, shape);
  memory.upload(arrays_.data(), staging_.bytes().first(bytes));
  return padded_;
}

void DeviceBatch::fill(const layers::ForwardBatch& batch, const Shape& shape) {
  const auto tokens = static_cast<std::size_t>(shape.num_tokens);
  const auto seqs = static_cast<std::size_t>(shape.num_seqs);
  Cutter cutter(staging_, arrays_);
  const Cutter::Array token_ids = cutter.take(tokens);
  const Cutter::Array positions = cutter.take(tokens);
  const Cutter::Array slot_mapping = cutter.take(tokens);
  const Cutter::Array cu_seqlens_q = cutter.take(seqs + 1);
  const Cutter::Array seq_lens = cutter.take(seqs);
  const Cutter::Array page_tables = cutter.take(seqs * static_cast<std::size_t>(shape.max_pages));
  assign(token_ids.host, batch.token_ids, 0);
  assign(positions.host, batch.positions, 0);
  assign(slot_mapping.host, batch.slot_mapping, -1);
  assign(seq_lens.host, batch.seq_lens, 0);
  std::ranges::copy(batch.cu_seqlens_q, cu_seqlens_q.host.begin());
  for (std::size_t s = batch.cu_seqlens_q.size(); s <= seqs; ++s) {
    cu_seqlens_q.host[s] = cu_seqlens_q.host[s - 1] + 1;
  }
  const auto row = static_cast<std::size_t>(batch.max_pages);
  const auto padded_row = static_cast<std::size_t>(shape.max_pages);
  for (std::size_t s = 0; s < seqs; ++s) {
    const bool is_real = s < static_cast<std::size_t>(batch.num_seqs());
    assign(page_tables.host.subspan(s * padded_row, padded_row),
           is_real ? batch.page_tables.subspan(s * row, row) : std::span<const std::int32_t>(), -1);
  }

  padded_ = batch;
  padded_.token_ids = token_ids.host;
  padded_.positions = positions.host;
  padded_.slot_mapping = slot_mapping.host;
  padded_.cu_seqlens_q = cu_seqlens_q.host;
  padded_.seq_lens = seq_lens.host;
  padded_.page_tables = page_tables.host;
  padded_.max_pages = shape.max_pages;
  on_device_ = {.token_ids = token_ids.device,
                .positions = positions.device,
                .cu_seqlens_q = cu_seqlens_q.device,
                .seq_lens = seq_lens.device,
                .page_tables = page_tables.device,
                .slot_mapping = slot_mapping.device};
  padded_.on_device = &on_device_;
  if (exec_->records() && is_decode(batch)) {
    // Decode takes the absorbed form anyway; asked for by name, it does not depend on the lengths.
    padded_.mla_mode = MlaMode::absorb;
    padded_.num_prefill = 0;
    logit_rows_.resize(seqs);
    std::iota(logit_rows_.begin(), logit_rows_.end(), 0);
    padded_.logit_rows = logit_rows_;
    record_key_ =
        (static_cast<std::uint64_t>(shape.num_seqs) << 32) | static_cast<std::uint32_t>(shape.max_pages);
  }
}

}  // namespace nibble::engine
