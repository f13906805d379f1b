// Cache: the paged cache memory of all layers, laid out as the model's CacheSpecs ask.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/memory_space.h"
#include "layers/context.h"
#include "nibble/result.h"

namespace nibble::engine {

// Bytes all layers keep per token, rounded up (a spec may keep one entry for several tokens).
std::size_t cache_bytes_per_token(std::span<const layers::CacheSpec> specs, std::int32_t num_layers);

struct CacheShape {
  std::int32_t num_layers = 0;
  std::int32_t num_pages = 0;
  std::int32_t page_size = 0;  // tokens
};

class Cache {
 public:
  // Of the host's memory, pages of the operating system are claimed as entries are written. out_of_memory
  // if it cannot be had, bad_input if page_size is no multiple of a spec's tokens_per_entry.
  static Result<Cache> allocate(std::span<const layers::CacheSpec> specs, const CacheShape& shape,
                                MemorySpace& memory = host_space());

  // The same shapes without memory, for running a model in counting mode. Never read or written.
  static Result<Cache> counting(std::span<const layers::CacheSpec> specs, const CacheShape& shape);

  [[nodiscard]] layers::CacheView view() const {
    return {.tensors = tensors_, .page_size = page_size_, .specs_per_layer = specs_per_layer_};
  }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

 private:
  // Null memory: counting mode.
  static Result<Cache> make(std::span<const layers::CacheSpec> specs, const CacheShape& shape,
                            MemorySpace* memory);

  std::vector<Buffer> buffers_;      // one for each tensor; empty in counting mode
  std::vector<TensorView> tensors_;  // [layer * specs + spec]
  std::int32_t page_size_ = 0;
  std::int32_t specs_per_layer_ = 1;
  std::size_t bytes_ = 0;
};

}  // namespace nibble::engine
