#include "engine/decode_nodes.h"

#include <array>
#include <functional>

#include "comm/communicator.h"
#include "engine/batch_builder.h"

namespace nibble::engine {

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
  DecodeNodes nodes;
  std::size_t counted = 0;
  const std::function<void(std::int32_t)> after_layer = [&](std::int32_t layer_idx) {
    const std::size_t so_far = backend.exec.num_rehearsed();
    if (layer_idx >= 0) nodes.per_layer.push_back(so_far - counted);
    counted = so_far;
  };
  layers::Context ctx{.table = backend.table,
                      .exec = backend.exec,
                      .arena = arena,
                      .comm = comm::single(),
                      .after_layer = &after_layer};
  backend.exec.rehearse([&] {
    model.forward(ctx, batch, cache->view(), logits);
    nodes.total = backend.exec.num_rehearsed();
  });
  return nodes;
}

}  // namespace nibble::engine
