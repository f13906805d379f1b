// LayerRunner: a known text through a checkpoint's model with one layer in memory at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/buffer.h"
#include "kernels/device.h"
#include "models/checkpoint_shape.h"
#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble::models {

class LayerRunner {
 public:
  // The text in windows of `window` tokens (the model's positions if they are fewer), each a sequence of its
  // own; embedded at once. bad_input for tokens that are not in the vocabulary.
  static Result<std::unique_ptr<LayerRunner>> create(const std::filesystem::path& dir,
                                                     std::vector<TokenId> tokens, std::int32_t window,
                                                     int num_threads);

  // Loads a layer in the formats it is stored in, and lets the one before go.
  Status load(std::int32_t layer_idx);

  // Runs all windows through the loaded layer. Without `keep` the hidden states stay as they were, so that
  // the layer can be run again. on_window(tokens done) may end it.
  Status run(bool keep, layers::InputSink* inputs, const std::function<Status(std::size_t)>& on_window);

  // The matrix of the source with this module name, and the weight that was loaded from it.
  [[nodiscard]] const Binding& binding(const std::string& module) const;
  // The layer whose input the hidden states are, if every load was followed by a run that kept them.
  [[nodiscard]] std::int32_t next_layer() const { return layer_idx_ + 1; }
  [[nodiscard]] std::size_t num_tokens() const { return tokens_.size(); }
  [[nodiscard]] ThreadPool& threads() { return device_->exec().threads(); }

 private:
  explicit LayerRunner(CheckpointShape shape) : shape_(std::move(shape)) {}

  struct Batch;
  [[nodiscard]] Batch batch_at(std::size_t begin) const;
  Status load_where(const std::function<bool(const std::string&)>& wanted);
  Status embed();
  void size_scratch();

  CheckpointShape shape_;
  std::unique_ptr<kernels::Device> device_;
  std::vector<TokenId> tokens_;
  std::size_t window_ = 0;
  std::vector<std::int32_t> positions_;  // 0, 1, ..., window - 1; slots too
  Buffer cache_;                         // of one layer and one window
  std::vector<TensorView> cache_views_;  // the same for all layers
  Buffer hidden_;                        // [num_tokens, hidden_size] f32
  Buffer once_;                          // [window, hidden_size] f32, for runs that keep nothing
  Arena arena_;
  std::int32_t layer_idx_ = -1;
};

}  // namespace nibble::models
