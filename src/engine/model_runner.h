// ModelRunner: runs a model on batches with scratch memory sized once, so that a step allocates
// nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/arena.h"
#include "core/buffer.h"
#include "engine/cache.h"
#include "engine/device_batch.h"
#include "kernels/exec.h"
#include "kernels/kernel_table.h"
#include "layers/context.h"
#include "models/model.h"
#include "nibble/result.h"

namespace nibble::engine {

// The largest batches that will be run.
struct RunnerLimits {
  std::int32_t max_num_batched_tokens = 512;
  std::int32_t max_num_seqs = 1;
  std::int32_t max_model_len = 4096;  // longest context of a sequence
  std::int32_t page_size = 64;
  MlaMode mla_mode = MlaMode::automatic;
};

// What the model runs on. Everything must outlive the runner.
struct Backend {
  const kernels::KernelTable& table;
  kernels::Exec& exec;
};

// Scratch the model's forward needs at most within `limits`: runs it with kernels that do nothing at
// the extreme shapes (one long sequence, many sequences, decodes only). Counting with
// MlaMode::automatic, a model takes the larger of the forms it may choose.
Result<std::size_t> scratch_bytes(const models::Model& model, Backend backend, const RunnerLimits& limits);

class ModelRunner {
 public:
  // `model`, `backend` and `cache` must outlive this. out_of_memory if the scratch cannot be had.
  static Result<ModelRunner> create(const models::Model& model, Backend backend, const Cache& cache,
                                    const RunnerLimits& limits);

  // Logits of batch.logit_rows, [rows, vocab] f32 in the backend's memory, valid until the next call. Throws
  // InternalError, DeviceError or std::bad_alloc. Allocates only when more rows are asked for than ever
  // before.
  TensorView run(const layers::ForwardBatch& batch);

  // What run returned, in host memory; valid until the next call.
  TensorView download(const TensorView& logits);

  [[nodiscard]] const RunnerLimits& limits() const { return limits_; }
  [[nodiscard]] std::size_t scratch_size() const { return arena_.capacity(); }

 private:
  ModelRunner(const models::Model& model, Backend backend, const Cache& cache, const RunnerLimits& limits,
              std::size_t scratch);
  void check_limits(const layers::ForwardBatch& batch) const;
  void forward(const layers::ForwardBatch& batch, TensorView logits);

  const models::Model* model_;
  Backend backend_;
  const Cache* cache_;
  RunnerLimits limits_;
  Arena arena_;
  DeviceBatch device_batch_;
  Buffer logits_;       // where kernels write them
  Buffer host_logits_;  // unless that is the host's memory
};

// No NaN and no infinity in `row`.
bool all_finite(std::span<const float> row) noexcept;

}  // namespace nibble::engine
