// What MlaModule's files share.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "core/arena.h"
#include "engine/device_batch.h"
#include "engine/page_pool.h"
#include "layers/mla_attention.h"
#include "layers/rope.h"
#include "modules/device.h"
#include "modules/step_arrays.h"
#include "nibble/modules/mla.h"
#include "nibble/result.h"

namespace nibble {

// What a config means: the layer's, the rope's, the cache's.
struct MlaSettings {
  layers::MlaConfig attention;
  layers::RopeConfig rope;
  DType cache_dtype = DType::f32;
  std::int32_t num_pages = 0;
};

struct MlaModule::Impl {
  Impl(std::shared_ptr<ModuleDevice> on, const MlaModuleConfig& c, const MlaSettings& s);
  ~Impl();

  struct Sequence {
    std::int32_t length = 0;
    std::vector<engine::PageId> pages;
  };
  // A step whose chunks were found to be right: sequences and items in their order.
  struct Step {
    std::vector<Sequence*> sequences;
    std::vector<modules::StepItem> items;
    std::int32_t num_tokens = 0;
  };

  [[nodiscard]] std::int64_t cache_width() const;
  [[nodiscard]] std::size_t cache_bytes() const;
  // Scratch, cache and rope tables.
  Status prepare();
  [[nodiscard]] Result<Sequence*> find(SequenceId sequence);
  // Chunks of the next tokens; takes the pages they need.
  Result<Step> begin_step(std::span<const MlaChunk> chunks);
  Status check_step(std::span<const MlaChunk> chunks, Step& step);
  Status take_pages(std::span<const MlaChunk> chunks, Step& step);
  void run(const Step& step, const float* x, float* y, bool record);
  void launch(layers::Context& ctx, const layers::ForwardBatch& batch, const float* x, float* y) const;
  [[nodiscard]] std::vector<kernels::Weight*> matrices();
  [[nodiscard]] std::size_t count_scratch(std::int32_t num_seqs, std::int32_t num_tokens) const;

  std::shared_ptr<ModuleDevice> device;
  MlaModuleConfig config;
  MlaSettings settings;
  std::uint64_t id;
  layers::MlaAttention attention;
  layers::Rope rope;
  Arena arena;
  Buffer cache_memory;
  TensorView cache;
  engine::PagePool pool;
  std::map<SequenceId, Sequence> sequences;
  SequenceId last_sequence = 0;
  modules::StepArrays arrays;
  engine::DeviceBatch device_batch;
};

struct AttentionPlan::Impl {
  explicit Impl(kernels::Exec& exec) : device_batch(exec, 0) {}

  const MlaModule::Impl* module = nullptr;
  modules::StepArrays arrays;
  engine::DeviceBatch device_batch;
  layers::ForwardBatch batch;
};

}  // namespace nibble
