// What the MoE kernels are given: plain values and device pointers.
#pragma once

#include <cstdint>

#include "kernels/cuda/packed_weight.h"

namespace nibble::kernels::cuda::moe {

// Which of the products a launch makes: gate and up, down.
enum Products : unsigned { kFirst = 1, kSecond = 2 };

// What inputs of a product go through before they are multiplied (quant::ActivationFormat).
enum class Hidden : std::uint8_t { plain, fp8, int8 };

// Some consecutive entries of the sorted list, all of one expert.
struct Tile {
  std::int32_t expert;
  std::int32_t begin;
  std::int32_t count;
};

// (token, slot) pairs sorted by expert, cut into tiles. A slot is token * slots_of_token + j.
struct Route {
  std::int32_t* num_tiles;  // [1]
  Tile* tiles;              // [max_tiles]
  // [max_sorted] slots; an expert's entries begin at a multiple of kRouteAlign, gaps are -1
  std::int32_t* sorted;
  // For prefill, else null: the entry of each slot, -1 = none; and the routing weight of each entry.
  std::int32_t* positions;  // [num_slots]
  float* sorted_weights;    // [max_sorted]
};

// A gated MLP that every token passes with weight 1, cut into `count` experts of the routed ones' size, which
// go before these: expert i < count is its hidden values from i * gate.n on, expert count + e the routed
// expert e.
struct SharedExperts {
  std::int32_t count;  // 0: none; decode only
  PackedWeight gate;
  PackedWeight up;
  PackedWeight down;
};

struct MoeParams {
  const float* x;  // [m, k], rows x_stride floats apart
  std::int64_t x_stride;
  float* y;  // [m, k]
  std::int64_t y_stride;
  const std::int32_t* ids;  // [m, topk]
  const float* weights;     // [m, topk]
  std::int32_t m;
  std::int32_t topk;
  std::int32_t num_experts;
  PackedWeight gate;
  PackedWeight up;
  PackedWeight down;
  SharedExperts shared;
  Hidden inputs;           // what x has gone through
  Hidden hidden;           // what hidden values go through
  Route route;             // tiles == null: every block sorts for itself
  std::uint16_t* h;        // bf16 hidden values by sorted position, in B fragment order, [.][h_row]
  std::int64_t h_row;      // down.k rounded up to 64
  float* h_f32;            // hidden values in plain order before they are quantised, or null
  std::uint32_t* barrier;  // for grid_barrier.cuh
  float* partial;          // [m * slots_of_token, down.n]: each slot's weighted output
  // Instead of partial after the prefill products: bf16, rows of down.n rounded up to whole row tiles.
  std::uint16_t* partial_bf16;
};

// A token's shared experts, then the chosen ones.
NIB_HOST_DEVICE inline std::int32_t slots_of_token(const MoeParams& p) { return p.shared.count + p.topk; }

// Elements between rows of partial_bf16.
NIB_HOST_DEVICE inline std::int64_t partial_row(const MoeParams& p) {
  return std::int64_t{p.down.num_tiles} * kTileRows;
}

}  // namespace nibble::kernels::cuda::moe
