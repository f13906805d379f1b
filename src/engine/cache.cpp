#include "engine/cache.h"

#include <fmt/format.h>

#include <new>

#include "core/out_of_memory.h"

namespace nibble::engine {
namespace {

// Stands for memory in counting mode: distinct from null, never dereferenced.
void* counting_address() { return reinterpret_cast<void*>(std::uintptr_t{64}); }

}  // namespace

std::size_t cache_bytes_per_token(std::span<const layers::CacheSpec> specs, std::int32_t num_layers) {
  std::size_t bytes = 0;
  for (const layers::CacheSpec& spec : specs) {
    const std::int64_t per_token =
        (spec.bytes_per_entry() + spec.tokens_per_entry - 1) / spec.tokens_per_entry;
    bytes += static_cast<std::size_t>(per_token) * static_cast<std::size_t>(num_layers);
  }
  return bytes;
}

Result<Cache> Cache::allocate(std::span<const layers::CacheSpec> specs, const CacheShape& shape,
                              MemorySpace& memory) {
  return make(specs, shape, &memory);
}

Result<Cache> Cache::counting(std::span<const layers::CacheSpec> specs, const CacheShape& shape) {
  return make(specs, shape, nullptr);
}

Result<Cache> Cache::make(std::span<const layers::CacheSpec> specs, const CacheShape& shape,
                          MemorySpace* memory) {
  Cache cache;
  cache.page_size_ = shape.page_size;
  cache.specs_per_layer_ = static_cast<std::int32_t>(specs.size());
  const auto num_slots = static_cast<std::int64_t>(shape.num_pages) * shape.page_size;
  const auto bytes_of = [&](const layers::CacheSpec& spec) {
    return static_cast<std::size_t>(num_slots / spec.tokens_per_entry) *
           static_cast<std::size_t>(spec.bytes_per_entry());
  };
  try {
    std::size_t shared = 0;
    for (const layers::CacheSpec& spec : specs) shared += BufferSlab::share(bytes_of(spec));
    const bool on_host = memory != nullptr && memory->is_host();
    BufferSlab slab(on_host ? shared * static_cast<std::size_t>(shape.num_layers) : 0);
    for (std::int32_t layer_idx = 0; layer_idx < shape.num_layers; ++layer_idx) {
      for (const layers::CacheSpec& spec : specs) {
        if (shape.page_size % spec.tokens_per_entry != 0) {
          return bad_input(
              fmt::format("page_size {} is not a multiple of the {} tokens of a '{}' cache entry",
                          shape.page_size, spec.tokens_per_entry, spec.name));
        }
        const std::int64_t entries = num_slots / spec.tokens_per_entry;
        const std::size_t bytes = bytes_of(spec);
        void* data = counting_address();
        if (memory != nullptr) {
          cache.buffers_.push_back(on_host ? slab.take(bytes) : memory->allocate(bytes));
          data = cache.buffers_.back().data();
        }
        cache.tensors_.push_back(make_view(data, spec.dtype, {entries, spec.width}));
        cache.bytes_ += bytes;
      }
    }
  } catch (const std::bad_alloc& e) {
    return no_memory(
        fmt::format("no memory for a cache of {} pages of {} tokens, {} bytes per token and layer; "
                    "lower max_model_len or max_num_seqs",
                    shape.num_pages, shape.page_size, cache_bytes_per_token(specs, 1)),
        e);
  }
  return cache;
}

}  // namespace nibble::engine
