// Runs a model on sequences with a paged cache, for tests: pages are scattered and everything that must
// not be read is poisoned with NaN.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/arena.h"
#include "core/buffer.h"
#include "kernels/device.h"
#include "models/model.h"

namespace nibble::testing {

// Tokens [begin, begin + count) of one sequence.
struct Chunk {
  std::int32_t seq = 0;
  std::int32_t begin = 0;
  std::int32_t count = 0;
};

// One forward: chunks with more than one token, or a first token, come first.
using Step = std::vector<Chunk>;

// Everything a model recorded, by name and layer, rows in the order of the batch.
struct Trace final : layers::TraceSink {
  struct Entry {
    std::string name;
    std::int32_t layer_idx;
    std::int64_t width;
    std::vector<float> f32;
    std::vector<std::int32_t> i32;
  };
  void record(const char* name, std::int32_t layer_idx, const TensorView& value) override;
  [[nodiscard]] const Entry& at(const std::string& name, std::int32_t layer_idx) const;
  std::vector<Entry> entries;
};

class PagedRunner {
 public:
  struct Options {
    MlaMode mla_mode = MlaMode::automatic;
    std::int32_t page_size = 16;
    std::int32_t max_len = 128;  // per sequence
  };
  // `model` and `device` must outlive this.
  PagedRunner(const models::Model& model, kernels::Device& device,
              std::vector<std::vector<std::int32_t>> sequences, const Options& options);

  // Runs one forward and appends the logits of all its tokens to their sequences.
  void run(const Step& step, layers::TraceSink* trace = nullptr, layers::InputSink* inputs = nullptr);
  // Appends a token to sequence `seq`.
  void append(std::int32_t seq, std::int32_t token) { sequence(seq).tokens.push_back(token); }

  // [tokens run so far, vocab] of one sequence.
  [[nodiscard]] const std::vector<float>& logits(std::int32_t seq) const {
    return sequences_[static_cast<std::size_t>(seq)].logits;
  }

 private:
  struct Sequence {
    std::vector<std::int32_t> tokens;
    std::vector<std::int32_t> pages;
    std::vector<float> logits;
  };
  struct Batch {
    std::vector<std::int32_t> token_ids, positions, cu_seqlens_q{0}, seq_lens, page_tables, slot_mapping,
        logit_rows;
    std::int32_t num_prefill = 0;
  };

  Sequence& sequence(std::int32_t seq) { return sequences_[static_cast<std::size_t>(seq)]; }
  [[nodiscard]] Batch build(const Step& step) const;
  [[nodiscard]] layers::ForwardBatch view(const Batch& batch) const;

  const models::Model& model_;
  kernels::Device& device_;
  Options options_;
  std::int32_t max_pages_;
  std::int32_t poison_page_;  // never written: holds NaN
  std::vector<Sequence> sequences_;
  std::vector<Buffer> cache_memory_;
  std::vector<TensorView> cache_tensors_;
};

}  // namespace nibble::testing
