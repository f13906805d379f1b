// plan_model of nibble/checkpoint.h: what Llm::load would allocate, from headers alone.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <new>

#include "core/out_of_memory.h"
#include "engine/decode_nodes.h"
#include "engine/host_memory.h"
#include "engine/options.h"
#include "engine/sizing.h"
#include "models/registry.h"
#include "nibble/checkpoint.h"

namespace nibble {
namespace {

// Context shown for a model that does not fit at all, unless the user asked for one.
constexpr std::int32_t kUnfitModelLen = 4096;

// As Llm::load chooses them; if nothing fits, what a modest context would need.
Result<engine::EngineSizes> plan_sizes(const models::Model& shape, engine::Backend backend,
                                       engine::SizeRequest request, std::uint64_t memory) {
  auto sizes = engine::choose_sizes(shape, backend, request, memory);
  if (sizes.ok() || sizes.error().code != ErrorCode::out_of_memory) return sizes;
  if (request.max_model_len == 0) {
    request.max_model_len = std::min(kUnfitModelLen, shape.info().max_position_embeddings);
  }
  return engine::choose_sizes(shape, backend, request, std::numeric_limits<std::uint64_t>::max() / 4);
}

std::vector<std::string> list_kernels(const std::vector<models::WeightPlanRow>& weights,
                                      const kernels::Device& device) {
  std::vector<std::string> kernels;
  for (const models::WeightPlanRow& row : weights) {
    if (row.kind == "other" && row.format == "f32") continue;  // norms and biases multiply element by element
    kernels.push_back(fmt::format("{}: {} x {}", row.kind, row.format, device.operand_name()));
  }
  return kernels;
}

Result<MemoryPlan> make_plan(const LlmOptions& options) {
  NIB_TRY(const engine::ParsedOptions parsed, engine::parse_options(options));
  NIB_TRY(const std::unique_ptr<kernels::Device> device, kernels::make_device(parsed.device));
  NIB_TRY(const models::ModelPlan model, models::plan_model(parsed.load, *device));
  const engine::Backend backend{.table = device->table(), .exec = device->exec()};
  const std::uint64_t available = engine::available_memory(*device);
  const std::uint64_t left = available - std::min<std::uint64_t>(available, model.weight_bytes);
  NIB_TRY(const engine::EngineSizes sizes, plan_sizes(*model.shape, backend, parsed.size, left));

  MemoryPlan plan{.device = device->description(),
                  .weight_bytes = model.weight_bytes,
                  .cache_bytes_per_token = model.cache_bytes_per_token,
                  .max_model_len = sizes.config.runner.max_model_len,
                  .cache_bytes = sizes.cache_bytes,
                  .scratch_bytes = sizes.scratch_bytes,
                  .available_bytes = available,
                  .bytes_per_decode_token = model.shape->active_bytes(1, 0).total(),
                  .kernels = list_kernels(model.weights, *device)};
  for (const models::WeightPlanRow& row : model.weights) {
    plan.weights.push_back({.kind = row.kind,
                            .format = row.format,
                            .num_parameters = row.num_parameters,
                            .packed_bytes = row.packed_bytes});
  }
  const engine::DecodeNodes nodes = engine::count_decode_nodes(*model.shape, backend, sizes.config.runner);
  plan.graph_nodes = static_cast<std::int64_t>(nodes.total);
  plan.layer_graph_nodes.assign(nodes.per_layer.begin(), nodes.per_layer.end());
  plan.total_bytes = plan.weight_bytes + plan.cache_bytes + plan.scratch_bytes;
  plan.fits = plan.total_bytes <= plan.available_bytes;
  return plan;
}

}  // namespace

Result<MemoryPlan> plan_model(const LlmOptions& options) {
  try {
    return make_plan(options);
  } catch (const std::bad_alloc& e) {
    return no_memory("out of memory while planning", e);
  } catch (const std::exception& e) {
    return runtime_error(e.what());
  }
}

}  // namespace nibble
