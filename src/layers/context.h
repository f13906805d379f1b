// Context: everything a layer's forward needs besides its own weights. Passed explicitly; there is no
// current batch, stream or rank to look up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>

#include "comm/communicator.h"
#include "core/arena.h"
#include "core/tensor.h"
#include "kernels/exec.h"
#include "kernels/kernel_table.h"
#include "nibble/types.h"

namespace nibble::layers {

// The integer arrays of a batch where kernels read them.
struct BatchArrays {
  const std::int32_t* token_ids;
  const std::int32_t* positions;
  const std::int32_t* cu_seqlens_q;
  const std::int32_t* seq_lens;
  const std::int32_t* page_tables;
  const std::int32_t* slot_mapping;  // -1: the token is padding and leaves no entry
};

// Any mix of prefill chunks and decode steps of several sequences. Sequences [0, num_prefill) are
// prefill chunks (more than one query row, or a first chunk), the rest are decode steps.
struct ForwardBatch {
  std::span<const std::int32_t> token_ids;     // [num_tokens]
  std::span<const std::int32_t> positions;     // [num_tokens]
  std::span<const std::int32_t> cu_seqlens_q;  // [num_seqs + 1]
  std::span<const std::int32_t> seq_lens;      // [num_seqs] cached tokens after this step
  std::span<const std::int32_t> page_tables;   // [num_seqs, max_pages]
  std::int32_t max_pages = 0;
  std::span<const std::int32_t> slot_mapping;  // [num_tokens] page * page_size + offset
  std::span<const std::int32_t> logit_rows;    // [num_logits] rows of which logits are wanted, ascending
  std::int32_t num_prefill = 0;
  MlaMode mla_mode = MlaMode::automatic;
  const BatchArrays* on_device = nullptr;  // null: kernels read the arrays above

  [[nodiscard]] BatchArrays arrays() const {
    if (on_device != nullptr) return *on_device;
    return {.token_ids = token_ids.data(),
            .positions = positions.data(),
            .cu_seqlens_q = cu_seqlens_q.data(),
            .seq_lens = seq_lens.data(),
            .page_tables = page_tables.data(),
            .slot_mapping = slot_mapping.data()};
  }
  [[nodiscard]] std::int32_t num_tokens() const { return static_cast<std::int32_t>(token_ids.size()); }
  [[nodiscard]] std::int32_t num_seqs() const { return static_cast<std::int32_t>(seq_lens.size()); }
};

// What one kind of cache entry costs; the engine counts pages and never learns what MLA is.
struct CacheSpec {
  const char* name;               // "latent"
  std::int32_t tokens_per_entry;  // 1; more for compressed caches
  std::int32_t window;            // 0 = whole context
  std::int64_t width;             // values per entry
  DType dtype;
  [[nodiscard]] std::int64_t bytes_per_entry() const { return width * dtype_bits(dtype) / 8; }
};

// The paged cache memory of all layers: tensors[layer * specs + spec] is [num_pages * page_size, width].
struct CacheView {
  std::span<const TensorView> tensors;
  std::int32_t page_size = 0;
  std::int32_t specs_per_layer = 1;
  [[nodiscard]] const TensorView& layer(std::int32_t layer_idx, std::int32_t spec = 0) const {
    return tensors[static_cast<std::size_t>(layer_idx * specs_per_layer + spec)];
  }
};

// Receives intermediate values for tests and debugging; null in normal operation.
class TraceSink {
 public:
  virtual ~TraceSink() = default;
  // name: "hidden_states", "attn_out", "topk_ids" (I32), "topk_weights"; layer -1 = embedding.
  virtual void record(const char* name, std::int32_t layer_idx, const TensorView& value) = 0;
};

// An input on its way into linear layers, before it is quantised: what calibration looks at.
struct LinearInput {
  std::initializer_list<const kernels::Weight*> weights;  // that all multiply it
  std::int64_t group = 0;              // the one of the weights' groups that does, if `rows` is not empty
  TensorView x;                        // [m, k] f32
  std::span<const std::int32_t> rows;  // rows of x that this group gets; empty = all rows, all groups
};

// Receives the inputs of linear layers; null in normal operation. The router and the head are among them,
// W_UK and W_UV in the naive form only.
class InputSink {
 public:
  virtual ~InputSink() = default;
  virtual void record(const LinearInput& input) = 0;
};

struct Context {
  const kernels::KernelTable& table;
  kernels::Exec& exec;
  Arena& arena;
  comm::Communicator& comm;
  TraceSink* trace = nullptr;
  InputSink* inputs = nullptr;
  // Called when a layer (-1: the embedding) has launched what is its own; null in normal operation.
  const std::function<void(std::int32_t layer_idx)>* after_layer = nullptr;

  // There is nothing to be seen while memory is counted.
  [[nodiscard]] bool records_inputs() const { return inputs != nullptr && !arena.counting(); }

  // Both, in any order or at the same time: neither may use what the other writes.
  template <class First, class Second>
  void run_concurrently(First&& first, Second&& second) {
    const ArenaHold hold(arena);
    exec.run_concurrently(std::ref(first), std::ref(second));  // references allocate nothing
  }
};

}  // namespace nibble::layers
