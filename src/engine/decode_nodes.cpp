#include "engine/decode_nodes.h"

#include <array>
#include <string_view>

#include "comm/communicator.h"
#include "engine/batch_builder.h"

namespace nibble::engine {
namespace {

// Notes the nodes so far at the end of every layer.
class LayerClock final : public layers::TraceSink {
 public:
  explicit LayerClock(const kernels::Exec& exec) : exec_(exec) {}
  void record(const char* name, std::int32_t /*layer_idx*/, const TensorView& /*value*/) override {
    if (std::string_view(name) == "hidden_states") nodes_.push_back(exec_.num_rehearsed());
  }
  [[nodiscard]] std::vector<std::size_t> per_layer() const {
    std::vector<std::size_t> counts;
    for (std::size_t i = 1; i < nodes_.size(); ++i) counts.push_back(nodes_[i] - nodes_[i - 1]);
    return counts;
  }

 private:
  const kernels::Exec& exec_;
  std::vector<std::size_t> nodes_;  // after the embedding, then after each layer
};

}  // namespace

DecodeNodes count_decode_nodes(const models::Model& model, Backend backend, const RunnerLimits& limits) {
  const CacheShape shape{
      .num_layers = model.info().num_layers, .num_pages = 1, .page_size = limits.page_size};
  const Result<Cache> cache = Cache::counting(model.cache_specs(), shape);
  if (!cache.ok()) return {};
  constexpr std::array<TokenId, 2> kTokens{0, 0};
  constexpr std::array<PageId, 2> kPages{0, 0};
  const std::array<BatchItem, 1> items{
      BatchItem{.tokens = kTokens, .begin = 1, .count = 1, .pages = kPages, .logits_from = 1}};
  BatchBuilder builder(1, 1, static_cast<std::int32_t>(kPages.size()));
  const layers::ForwardBatch batch = builder.build(items, limits.page_size, MlaMode::absorb);
  Arena arena;  // addresses without memory
  const TensorView logits = Arena().tensor(DType::f32, {1, model.info().vocab_size});
  LayerClock clock(backend.exec);
  layers::Context ctx{
      .table = backend.table, .exec = backend.exec, .arena = arena, .comm = comm::single(), .trace = &clock};
  DecodeNodes nodes;
  backend.exec.rehearse([&] {
    model.forward(ctx, batch, cache->view(), logits);
    nodes.total = backend.exec.num_rehearsed();
  });
  nodes.per_layer = clock.per_layer();
  return nodes;
}

}  // namespace nibble::engine
