// DeviceBatch: a batch's integer arrays where kernels read them. Where a backend records its launches,
// decode steps are padded to a few shapes, so that few recordings serve all of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "kernels/exec.h"
#include "layers/context.h"

namespace nibble::engine {

class DeviceBatch {
 public:
  // `exec` must outlive this. Decode steps are padded up to max_num_seqs sequences (0: not padded). With
  // steps_ahead > 1 so many batches may be placed before what runs on the first has ended; every
  // steps_ahead-th place() then waits.
  DeviceBatch(kernels::Exec& exec, std::int32_t max_num_seqs, std::int32_t steps_ahead = 1)
      : exec_(&exec), max_num_seqs_(max_num_seqs), steps_ahead_(steps_ahead) {}

  // `batch` itself on the host; elsewhere its arrays are copied. A padded batch has sequences of no
  // tokens at its end: their logits mean nothing and nothing of them is kept. Valid until the next
  // call. Throws std::bad_alloc.
  layers::ForwardBatch place(const layers::ForwardBatch& batch);

  // For Exec::run_recorded of the batch placed last: equal for batches of equal shapes; 0 = not to be
  // recorded.
  [[nodiscard]] std::uint64_t record_key() const noexcept { return record_key_; }

 private:
  struct Shape {
    std::int32_t num_tokens;
    std::int32_t num_seqs;
    std::int32_t max_pages;
  };
  [[nodiscard]] Shape padded_shape(const layers::ForwardBatch& batch) const;
  // Host memory for `bytes` of arrays that no upload is reading.
  std::span<std::byte> next_staging(std::size_t bytes);
  void fill(const layers::ForwardBatch& batch, const Shape& shape, std::span<std::byte> staging);

  kernels::Exec* exec_;
  std::int32_t max_num_seqs_;
  std::int32_t steps_ahead_;
  std::int32_t step_ = 0;
  std::uint64_t record_key_ = 0;
  Buffer staging_;  // of each step ahead all arrays, one after another
  Buffer arrays_;   // the same of one step on the device
  layers::ForwardBatch padded_;
  layers::BatchArrays on_device_{};
  std::vector<std::int32_t> logit_rows_;
};

}  // namespace nibble::engine
