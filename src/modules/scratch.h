// Scratch memory of a module: counted by running its forward with kernels that do nothing, then allocated
// once.
#pragma once

#include <utility>

#include "comm/communicator.h"
#include "core/arena.h"
#include "kernels/device.h"
#include "layers/context.h"

namespace nibble::modules {

// Bytes that fn(ctx) takes of its arena.
template <class Fn>
std::size_t count_scratch(kernels::Device& device, Fn&& fn) {
  Arena arena;
  const kernels::KernelTable counting = kernels::counting_kernels();
  layers::Context ctx{.table = counting, .exec = device.exec(), .arena = arena, .comm = comm::single()};
  std::forward<Fn>(fn)(ctx);
  return arena.peak();
}

// fn(ctx) with the device's kernels, from an empty arena.
template <class Fn>
void run_with(kernels::Device& device, Arena& arena, Fn&& fn) {
  arena.reset();
  layers::Context ctx{.table = device.table(), .exec = device.exec(), .arena = arena, .comm = comm::single()};
  std::forward<Fn>(fn)(ctx);
}

}  // namespace nibble::modules
